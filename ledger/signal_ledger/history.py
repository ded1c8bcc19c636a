"""The history of a job as a value: replayed event by event, saved to a file, and loaded in a test."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self, overload

from signal_ledger.arguments import type_name
from signal_ledger.errors import SchemaError
from signal_ledger.evolve import evolve
from signal_ledger.history_lines import event_line, header_line, read_event, read_header
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.wait_state import WaitState


class ReplayStep(NamedTuple):
    """One step of a replay.

    Args:
        event: An event.
        state: The job's wait state right after it.
    """

    event: RecordedEvent
    state: WaitState


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class History(Sequence[RecordedEvent]):
    """The events of a job in the order of their versions, or the first of them, and the job's row.

    Get one from `Ledger.export`, or from a file by `load`. It is a sequence of its events, and a value: two of them
    are compared by what they hold. It holds payloads: keep the file of one as you keep the data.

    Args:
        job_id: The job.
        events: Its events, from version 1 on without gaps.
        job: Its row; None if it was gone, or could not be read, when the history was exported.

    Raises:
        ValueError: An event is another job's, or a version is missing.

    Example:
        >>> import asyncio
        >>> from oban import Job
        >>> from signal_ledger import History, lite
        >>>
        >>> async def incident():
        ...     async with lite("sqlite:///signals.db", queues={}) as engine:
        ...         job = await engine.enqueue(Job("shop.Purchase", args={"order": 7}))
        ...         await engine.signal(job, "approved", source="ada@example.com")
        ...         (await engine.ledger.export(job)).save("incident.jsonl")
        >>>
        >>> asyncio.run(incident())
        >>> history = History.load("incident.jsonl")
        >>> history
        History(job 1 of shop.Purchase, 1 event)
        >>> for event, state in history.replay():
        ...     print(event.kind, "by", event.source, "leaves pending", state.pending)
        delivered by ada@example.com leaves pending {None: 1}
    """

    job_id: JobId
    events: tuple[RecordedEvent, ...]
    job: RecordedJob | None = None

    def __post_init__(self) -> None:
        """Check that it is one stream from its beginning."""
        for version, recorded in enumerate(self.events, start=1):
            if not isinstance(recorded, RecordedEvent):
                raise TypeError(f"history: expected recorded events, got {type_name(recorded)}")
            if recorded.job_id != self.job_id:
                raise ValueError(f"history: expected events of job {self.job_id}, got one of job {recorded.job_id}")
            if recorded.version != version:
                raise ValueError(
                    f"history: expected version {version} of job {self.job_id} next, got version {recorded.version}; "
                    "a history has all events from the first one on"
                )

    @classmethod
    def of(cls, events: Iterable[RecordedEvent]) -> Self:
        """Make one of the events of a job, such as `Ledger.history` returns; without the job's row.

        Raises:
            TypeError: Something else is among them.
            ValueError: There are none, or they are not the first ones of one job.
        """
        found = tuple(events)
        if not found:
            raise ValueError("history: expected the events of a job, got none")
        if not isinstance(found[0], RecordedEvent):
            raise TypeError(f"history: expected recorded events, got {type_name(found[0])}")
        return cls(job_id=found[0].job_id, events=found)

    def until(self, version: int) -> Self:
        """Return the history as it was after the event of a version; 0 is before the first one.

        Raises:
            ValueError: There is no such version.
        """
        if type(version) is not int or not 0 <= version <= len(self.events):
            raise ValueError(f"until: expected a version from 0 to {len(self.events)}, got {version!r}")
        return replace(self, events=self.events[:version])

    def replay(self) -> Iterator[ReplayStep]:
        """Yield each event with the job's wait state after it."""
        state = WaitState(job_id=self.job_id)
        for recorded in self.events:
            state = evolve(state, recorded.event, version=recorded.version, recorded_at=recorded.recorded_at)
            yield ReplayStep(recorded, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as lines of JSON. What was in the file before is replaced.

        Args:
            path: The file, ``incident.jsonl`` for instance.

        Raises:
            ValueError: The row of an event is damaged; nothing was written.
        """
        text = "".join(f"{line}\n" for line in self.to_lines())
        Path(path).write_text(text, encoding="ascii", newline="\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a history from a file, and check it: each column, each checksum and digest, and that none is missing.

        A file that ends early is a history that was cut, which is one, too.

        Raises:
            ValueError: The file holds none, or it is damaged. The message names the line, and what was expected there.
            SchemaError: It was written by a newer version of this library.
        """
        with Path(path).open(encoding="utf-8", errors="replace", newline="\n") as lines:
            return cls._read(lines, f"{os.fspath(path)}, line")

    def to_lines(self) -> Iterator[str]:
        """Yield the lines that `save` writes, without their ends.

        Raises:
            ValueError: The row of an event is damaged.
        """
        yield header_line(self.job_id, self.job)
        yield from map(event_line, self.events)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Self:
        """Read a history from the lines of a text stream, such as ``sys.stdin``; see `load`."""
        return cls._read(lines, "line")

    @classmethod
    def _read(cls, lines: Iterable[str], place: str) -> Self:
        events: list[RecordedEvent] = []
        header: tuple[JobId, RecordedJob | None] | None = None
        number = 0
        try:
            for number, line in enumerate(lines, start=1):
                if header is None:
                    header = read_header(line)
                else:
                    events.append(read_event(line, job_id=header[0], version=number - 1))
        except ValueError as error:
            raise ValueError(f"{place} {number}: {error}") from None
        except SchemaError as error:
            raise SchemaError(f"{place} {number}: {error}") from None
        if header is None:
            raise ValueError(f"{place} 1: expected a header, got the end of the file")
        return cls(job_id=header[0], events=tuple(events), job=header[1])

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self.events)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RecordedEvent, ...]: ...

    def __getitem__(self, index: int | slice) -> RecordedEvent | tuple[RecordedEvent, ...]:
        return self.events[index]

    def __repr__(self) -> str:
        worker = "" if self.job is None else f" of {self.job.worker}"
        return f"History(job {self.job_id}{worker}, {len(self.events)} event{'s' if len(self.events) != 1 else ''})"
