"""Which process this is, without a system call for each question: signals ask it twice."""

import os

_process_id = os.getpid()


def process_id() -> int:
    """Return this process's id, also in a fork."""
    return _process_id


def _forked() -> None:
    global _process_id  # noqa: PLW0603 - there is one process
    _process_id = os.getpid()


os.register_at_fork(after_in_child=_forked)
