"""The documentation runs, and prints what it says.

How a page says what is to be run (README.md and every page under docs/):

* A ``python`` block is a complete script. It is run in an empty folder of its own. If the next block is ``text``, that
  is what it prints.
* A ``console`` block holds commands, each behind a ``$``, and below each what it prints. They are run one after the
  other in the page's folder, which is empty in the beginning. Commands are ``python``, and ``signal-ledger``, which
  runs on a terminal of 120 columns, in UTC; ``export`` sets a variable for all that come after. ``# status N`` behind
  a command is its exit status, if not 0.
* ``<!-- file: NAME -->`` on the line before a block: it is not run, but lies under this name in the page's folder.
* ``<!-- terminal: NAME -->`` before a ``console`` block: these commands have a terminal of their own, in which a
  command may go on while other terminals are used. A later block of that terminal goes on with what it prints, and
  ``^C`` interrupts it. A line that begins with ``(Pdb) `` is typed into the debugger.
* ``<!-- not run: REASON -->`` before a ``python`` block: it is no script.
* ``sql`` blocks are queries of the views of a SQLite file; ``tests/views`` runs them.
* ``<!-- postgres -->`` on a line of its own: what the page runs finds the URL of an empty database, with Oban's schema
  installed, in ``DATABASE_URL`` and ``SIGNAL_LEDGER_URL``. It is on a scratch cluster; where none can be had, the tests
  of the page are skipped, and fail if ``CI`` is set.

Standard output is compared. Dates, times of day, UUIDs, how long tests took, and the folders of modules count by their
form, white space at the end of a line not at all. Standard error holds logs, and is shown when a test fails.
"""

import contextlib
import itertools
import os
import pty
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

from tests.docs.pages import PAGES, blocks, name, needs_postgres

TIMEOUT_S = 60

_SHAPES = [
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "<date>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?"), "<time>"),
    (re.compile(r"\bin \d+\.\d\ds\b( \(.+\))?"), "in <seconds>"),
    (re.compile(r"(?<= )/\S+/(?=\w+\.py\b)"), "<folder>/"),
]

_PROMPT = "(Pdb) "

_PROGRAMS = {"python": [], "signal-ledger": ["-m", "signal_ledger"]}

# A terminal without colours, which is where the program writes tables.
_TERMINAL = {"COLUMNS": "120", "TERM": "dumb", "TZ": "UTC"}

SCRIPTS = [
    pytest.param(page, block, following, id=f"{name(page)}:{block.line}")
    for page in PAGES
    for block, following in itertools.pairwise([*blocks(page), None])
    if block.language == "python" and not block.notes
]
STORIES = [
    pytest.param(page, id=name(page)) for page in PAGES if any(block.language == "console" for block in blocks(page))
]


def shape(line):
    """A line as it is compared."""
    for pattern, replacement in _SHAPES:
        line = pattern.sub(replacement, line)
    return line.rstrip()


class Command:
    """A Python program in a folder, with whatever processes it starts."""

    def __init__(self, arguments, folder, variables, *, on_terminal=False):
        # Warnings are errors for examples, too. The measuring of coverage, and our plugins of pytest, stay out of them.
        # Without what is meant for this run of tests alone.
        environment = {
            key: value for key, value in os.environ.items() if "COVERAGE" not in key and key != "PYTEST_ADDOPTS"
        }
        # Where a page does not configure pytest, it does without the plugins that happen to be installed here.
        plugins = {} if (folder / "pytest.ini").exists() else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        terminal, output = pty.openpty() if on_terminal else (None, subprocess.PIPE)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=folder,
            env={
                **environment,
                **variables,
                **plugins,
                "PYTHONUNBUFFERED": "1",
                **(_TERMINAL if on_terminal else {}),
            },
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._output = self._process.stdout
        if on_terminal:
            os.close(output)
            self._output = os.fdopen(terminal, encoding="utf-8")
        self._printed = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def next_line(self):
        """The next line that it prints; None when it has ended."""
        return self._printed.get(timeout=TIMEOUT_S)

    def type(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def end(self, status):
        """Let it end, which must be with a status and without printing any more."""
        assert self.next_line() is None, self.log
        assert self.returncode() == status, self.log

    def returncode(self):
        return self._process.wait(TIMEOUT_S)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self._process.stdin.close()
        self._output.close()
        self._log.close()

    @property
    def log(self):
        """What it and its processes have written to standard error."""
        self._log.seek(0)
        return self._log.read().decode()

    def _read(self):
        for line in self._lines():
            # Behind a prompt of the debugger stands what the next command prints: nobody's typing is echoed.
            printed = line.replace(_PROMPT, "")
            if printed.strip() or _PROMPT not in line:
                self._printed.put(printed)
        self._printed.put(None)

    def _lines(self):
        # A terminal that nobody writes to any more is an error to its reader.
        with contextlib.suppress(OSError):
            yield from self._output


@pytest.fixture
def variables(page, request):
    """What the environment of a page's programs has beyond that of the tests."""
    if not needs_postgres(page):
        return {}
    url = request.getfixturevalue("oban_url")
    return {"DATABASE_URL": url, "SIGNAL_LEDGER_URL": url}


@pytest.mark.parametrize(("page", "script", "following"), SCRIPTS)
def test_a_script_runs_in_an_empty_folder_and_prints_what_the_page_says(page, script, following, variables, tmp_path):
    (tmp_path / "example.py").write_text(script.text, encoding="utf-8")
    command = Command(["example.py"], tmp_path, variables)
    try:
        printed = list(iter(command.next_line, None))
        if following is not None and following.language == "text" and not following.notes:
            assert [shape(line) for line in printed] == [shape(line) for line in following.lines], command.log
        assert command.returncode() == 0, command.log
    finally:
        command.close()


class Terminal:
    """Runs one command after the other."""

    def __init__(self, folder, variables):
        self._folder = folder
        self._variables = variables
        self._command = None
        self._status = 0

    def play(self, block):
        for line in block.lines:
            if line.startswith("$ "):
                self.end()
                told, _, status = line[2:].partition("  # status ")
                self._status = int(status or 0)
                program, *arguments = shlex.split(told)
                if program == "export":
                    self._variables.update(argument.split("=", 1) for argument in arguments)
                    continue
                assert program in _PROGRAMS, f"expected a command that begins with {_PROGRAMS}, got {line}"
                self._command = Command(
                    [*_PROGRAMS[program], *arguments],
                    self._folder,
                    self._variables,
                    on_terminal=program == "signal-ledger",
                )
            elif line.startswith(_PROMPT):
                self._command.type(line.removeprefix(_PROMPT))
            elif line == "^C":
                self._command.interrupt()
                self.end()
            else:
                printed = self._command.next_line()
                assert printed is not None, f"it has ended before it printed {line!r}: {self._command.log}"
                assert shape(printed) == shape(line), self._command.log

    def end(self):
        if self._command is not None:
            self._command.end(self._status)
            self.close()

    def close(self):
        if self._command is not None:
            self._command.close()
            self._command = None


@pytest.mark.parametrize("page", STORIES)
def test_the_commands_of_a_page_run_in_order_and_print_what_it_says(page, variables, tmp_path):
    terminals = {}
    try:
        for block in blocks(page):
            if "file" in block.notes:
                (tmp_path / block.notes["file"]).write_text(block.text, encoding="utf-8")
            elif block.language == "console":
                title = block.notes.get("terminal")
                terminal = terminals.setdefault(title, Terminal(tmp_path, variables))
                terminal.play(block)
                if title is None:
                    terminal.end()
    finally:
        for terminal in terminals.values():
            terminal.close()


def test_there_are_scripts_and_stories():
    """Else the tests above would be green without having looked at anything."""
    assert len(SCRIPTS) > 5
    assert len(STORIES) > 1
    assert any(needs_postgres(page) for page in PAGES)


def test_every_page_says_what_is_to_be_done_with_its_blocks():
    known = {"python", "console", "text", "sh", "sql", "json"}
    for page in PAGES:
        for block in blocks(page):
            place = f"{name(page)}:{block.line}"
            assert block.language in known or block.language.startswith("{"), place
            if "file" in block.notes:
                assert any(other.language == "console" for other in blocks(page)), f"{place}: nothing runs this file"
