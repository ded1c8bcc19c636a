"""Help and completion: quick, without what is heavy; and completed words in a real shell."""

import json
import re
import subprocess
import sys

import pytest

from signal_ledger_adapters.cli.program import _COMMANDS
from tests.cli.program import PROGRAM, environment, run

HEAVY = {"sqlalchemy", "oban", "asyncpg", "psycopg", "rich", "erlpack", "asyncio"}

IMPORTED = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr))
from signal_ledger_adapters.cli.program import main
sys.argv[0] = "signal-ledger"
main()
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], None),
        (["signal", "--help"], None),
        (["workflow", "status", "--help"], None),
        (["completion", "bash"], None),
        (["completion", "zsh"], None),
        (["completion", "fish"], None),
        ([], "signal-ledger wait"),
        ([], "signal-ledger timeline --"),
    ],
)
def test_help_and_completion_import_nothing_heavy(arguments, words):
    completing = {"_SIGNAL_LEDGER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"} if words else {}
    done = subprocess.run([sys.executable, "-P", "-c", IMPORTED, *arguments], capture_output=True, check=True,
                          env=environment(**completing))  # fmt: skip
    assert done.stdout
    assert not HEAVY - {"asyncio"} & set(json.loads(done.stderr.splitlines()[-1]))


def test_each_command_has_help_and_the_statuses_are_told():
    told = " ".join(run("--help").out.split())
    assert "Exit statuses: 0 ok, 1 finding, 2 wrong call, 3 not found, 4 conflict, 5 timed out" in told
    for name in _COMMANDS:
        # Whole sentences: none is cut where the column ends.
        assert re.search(rf" {name} [A-Z][^.]*[.?](?: |$)", told), name


def completed(line, folder, url):
    """Return what bash proposes at the end of a line."""
    *before, _ = words = line.split(" ")
    script = folder / "signal-ledger"
    script.write_text("#!/bin/sh\nexec " + " ".join(PROGRAM) + ' "$@"\n')
    script.chmod(0o755)
    bash = f"""
    eval "$(signal-ledger completion bash)"
    COMP_WORDS=({" ".join(before)} "{words[-1]}") COMP_CWORD={len(before)} COMP_LINE="{line}" COMP_POINT={len(line)}
    complete -p signal-ledger >/dev/null && _signal_ledger_completion signal-ledger "{words[-1]}" ""
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environ = environment(SIGNAL_LEDGER_URL=url)
    environ["PATH"] = f"{folder}:{environ['PATH']}"
    done = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True, env=environ)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_jobs_that_wait(file_site, tmp_path):
    assert completed("signal-ledger wait", tmp_path, file_site.url) == ["waiting"]
    assert completed("signal-ledger events --sin", tmp_path, file_site.url) == ["--since"]
    waits = file_site.ask(lambda ledger: ledger.waiting())
    assert completed("signal-ledger timeline ", tmp_path, file_site.url) == [str(wait.job_id) for wait in waits]
    assert completed("signal-ledger timeline ", tmp_path, "sqlite:////nowhere/at.all") == []
