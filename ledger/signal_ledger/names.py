"""Names for the numbers and texts that the ledger counts and identifies things by.

A *run* is one life of a job, a *version* the place of an event in its job's stream, an *ordinal* the place of an await
among those of its run on its channel; all three count from 1 and are plain ``int``.
"""

from typing import NewType

JobId = NewType("JobId", int)
"""A job, as the job engine numbers it. 64 bits."""

Execution = NewType("Execution", int)
"""A token for one time that a worker picks a job up. Never repeats within a job; 0 stands for none yet."""

NO_EXECUTION = Execution(0)
"""The token of a job that never ran."""

SignalId = NewType("SignalId", str)
"""A delivery's id, a UUID in its canonical text form."""

DEFAULT_CHANNEL = ""
"""How the default channel is stored. In arguments and results it is None, and no caller can name it."""


def public_channel(channel: str | None) -> str | None:
    """Return a stored channel as callers see it.

    >>> public_channel("") is None, public_channel("votes")
    (True, 'votes')
    """
    return channel or None
