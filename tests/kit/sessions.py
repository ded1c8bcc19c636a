"""Sessions of pytest as users have them: in an empty folder, in a process of their own."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass


@dataclass
class Session:
    """A session that has ended.

    Args:
        outcomes: How many tests passed, failed and so on.
        output: What it printed.
    """

    outcomes: dict[str, int]
    output: str


def play(folder, files, *arguments, timeout=300):
    """Write files into a folder and run pytest there, with warnings as errors."""
    if "no:asyncio" not in arguments:
        # pytest-asyncio warns of those who do not set it.
        arguments = ["-o", "asyncio_default_fixture_loop_scope=function", *arguments]
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "HYPOTHESIS"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    output = done.stdout + done.stderr
    [*_, last] = [line for line in done.stdout.splitlines() if line] or [""]
    outcomes = {outcome.rstrip("s"): int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", last)}
    return Session(outcomes, output)
