"""Which process this is, without a system call for each question: signals ask it twice."""

import os

_process_id = os.getpid()


def process_id() -> int:
    """Return this process's id, also in a fork."""
    return _process_id


class OwnProcess:
    """The process that opens something which a fork gets a copy of, and must not use.

    Args:
        subject: What is opened, for the message.
        advice: What to do in a fork.
    """

    __slots__ = ("_advice", "_id", "_subject")

    def __init__(self, subject: str, advice: str) -> None:
        self._id = _process_id
        self._subject = subject
        self._advice = advice

    @property
    def is_this_one(self) -> bool:
        """Whether this process has opened it."""
        return self._id == _process_id

    def require(self) -> None:
        """Check that it has. Takes a tenth of a microsecond.

        Raises:
            RuntimeError: This is a fork of the one that has.
        """
        if self._id != _process_id:
            raise self.refusal()

    def refusal(self) -> RuntimeError:
        """Return what is raised in a fork."""
        return RuntimeError(f"{self._subject}: expected the process that opened it, found a fork; {self._advice}")


def _forked() -> None:
    global _process_id  # noqa: PLW0603 - there is one process
    _process_id = os.getpid()


os.register_at_fork(after_in_child=_forked)
