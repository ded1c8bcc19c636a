"""Events in words, as rows."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from signal_ledger.history import History, ReplayStep
from signal_ledger.instants import to_text
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.cli.output import Output, payload_text, styled
from signal_ledger_adapters.cli.rows import by_channel, of_event, of_payload, of_state
from signal_ledger_adapters.cli.views import Row
from signal_ledger_adapters.timeline import KIND_WIDTH, execution_numbers, printable, told

if TYPE_CHECKING:
    from rich.text import Text


class Teller:
    """Tells the events of a job.

    Args:
        history: All of them.
        output: Where they are told.

    Attributes:
        untold: What instants are told without, such as the time zone, and the day of which all events are.
    """

    def __init__(self, history: Sequence[RecordedEvent], output: Output) -> None:
        self._numbers = execution_numbers(history)
        self._payloads = output.payloads
        self.untold = output.tell_story(history[0].recorded_at, history[-1].recorded_at) if history else None
        # In JSON, words are in UTC: they are the same wherever the program runs.
        self._when = output.when if output.is_table else to_text

    def row(self, recorded: RecordedEvent) -> Row:
        """Return the row of an event."""
        row = {
            "version": recorded.version,
            "recorded_at": recorded.recorded_at,
            "kind": recorded.kind,
            "text": told(recorded.event, self._when, self._numbers),
        }
        return row | (of_payload(recorded) if self._payloads else {})

    def step(self, step: ReplayStep) -> Row:
        """Return the row of an event with the state after it."""
        state = of_state(step.state)
        return {
            **self.row(step.event),
            "status": state["status"],
            "pending": by_channel(step.state.pending),
            "state": state,
        }


def event_row(recorded: RecordedEvent, output: Output) -> Row:
    """Return the row of an event; for people with the event itself, which `event_line` tells in words."""
    row = of_event(recorded, payloads=output.payloads)
    return row | {"event": recorded.event} if output.is_table else row


def event_line(output: Output) -> "Callable[[Row], Text] | None":
    """Return what tells an event of any job on a line; None if programs read the answer."""
    if not output.is_table:
        return None
    from rich.text import Text

    when = output.precisely

    def line(row: Row) -> Text:
        kind = styled(row["kind"].value)
        kind.pad_right(KIND_WIDTH - len(kind))
        return Text.assemble(
            f"{when(row['recorded_at'])}  job {row['job_id']:<6} #{row['version']:<3} ",
            kind,
            f"  {told(row['event'], when)}{payload_text(row)}",
        )

    return line


def heading(history: History, untold: str | None) -> str:
    """Say which job a story is of, and what its instants leave out."""
    row = history.job
    what = "its row is gone, or hidden" if row is None else f"{printable(row.worker)}, {row.state}"
    return f"job {history.job_id}: {what}{'' if untold is None else f'; {untold}'}"
