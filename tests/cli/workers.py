"""The workers of the jobs that the program is asked about."""

import contextlib

from oban import Cancel, Record, worker

from signal_ledger import SignalTimeout, await_signal

TEXTS = {
    "escapes": "\x1b[2J\x1b]0;owned\x07",
    "lines": "two\nlines\r",
    "formula": "=cmd|' /C calc'!A0",
    "unicode": "Zoë ☃ \u202eevil [red]markup[/red]",
}
"""What terminals, spreadsheets and readers of lines might obey."""


@worker()
class Purchase:
    """Counts two votes, waits for a decision in vain, and then for the end."""

    async def process(self, job):
        votes = [await await_signal(channel="votes", wait_timeout=0) for _ in range(2)]
        with contextlib.suppress(SignalTimeout):
            await await_signal(wait_for=0.05)
        end = await await_signal(channel="end", wait_timeout=0)
        return Record({"votes": len(votes), "end": end["decision"]})


@worker()
class Approval:
    """Waits on a channel, for as long as its args say."""

    async def process(self, job):
        payload = await await_signal(job.args.get("wait_for"), channel=job.args.get("channel"), wait_timeout=0)
        return None if payload["decision"] == "approved" else Cancel("declined")


@worker()
class Charge:
    async def process(self, job):
        return None
