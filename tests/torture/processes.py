"""The processes of a run: started, stopped for a while, killed, and started anew."""

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

OPEN_S = 60.0
END_S = 60.0
STUCK_S = 30.0


async def opened(open_it):
    """Enter something that cannot be opened while the database is down or locked; return its exit as a context."""
    ends = asyncio.get_running_loop().time() + OPEN_S
    while True:
        context = open_it()
        try:
            entered = await context.__aenter__()
        except Exception:
            if asyncio.get_running_loop().time() > ends:
                raise
            await asyncio.sleep(0.1)
        else:
            return _Entered(context, entered)


def named(url, role, name):
    """A database's URL with which it knows whose connections they are. A file does not ask."""
    return f"{url}&application_name={role}-{name}" if url.startswith("postgresql:") else url


class _Entered:
    def __init__(self, context, value):
        self._context = context
        self._value = value

    async def __aenter__(self):
        return self._value

    async def __aexit__(self, *exception):
        return await self._context.__aexit__(*exception)


def tell_if_stuck():
    """Print what each task waits for, in a process that was told to end and has not done so for a while."""

    def tell():
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)

    asyncio.get_running_loop().call_later(STUCK_S, tell)


class Child:
    """One process after the other in the same role. Each has a name of its own, so that no two write to one file.

    Attributes:
        name: Of the process that runs now.
    """

    def __init__(self, folder, role, number, *arguments):
        self._folder = folder
        self.role = role
        self._number = number
        self._arguments = arguments
        self._generation = 0
        self._process = None
        self.name = ""

    async def start(self):
        """Start a process and wait until it is ready."""
        self._generation += 1
        self.name = f"{self._number}.{self._generation}"
        arguments = [argument if argument != "NAME" else self.name for argument in self._arguments]
        with (self._folder / f"{self.role}-{self.name}.stderr").open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"tests.torture.{self.role}",
                *map(str, arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                # Ctrl-C is the director's business.
                start_new_session=True,
            )
        line = await asyncio.wait_for(self._process.stdout.readline(), OPEN_S + 20)
        if line != b"ready\n":
            raise RuntimeError(f"{self.role} {self.name} did not start; see its .stderr")

    @property
    def pid(self):
        return self._process.pid

    @property
    def is_running(self):
        return self._process is not None and self._process.returncode is None

    async def kill(self):
        """SIGKILL it. Return whether that is what ended it."""
        if not self.is_running:
            return False
        self._process.kill()
        return await self._process.wait() == -signal.SIGKILL

    def freeze(self):
        """SIGSTOP it."""
        self._process.send_signal(signal.SIGSTOP)

    @property
    def is_frozen(self):
        return state_of(self.pid) == "T"

    def thaw(self):
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def ask(self, what="report"):
        """Ask for a report; or tell a client to ``rest``, which ends what it does before it reports."""
        self._process.stdin.write(f"{what}\n".encode())
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), END_S))

    async def close(self):
        """Let it end. Return its exit status; None if it would not end and was killed."""
        if not self.is_running:
            return self._process.returncode if self._process else 0
        self._process.stdin.close()
        try:
            return await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            await self.kill()
            return None


def state_of(pid):
    """The state of a process, as the kernel tells it in one letter; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
