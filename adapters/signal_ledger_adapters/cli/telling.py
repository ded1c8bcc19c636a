"""Events in words, as rows."""

from collections.abc import Sequence

from signal_ledger.history import ReplayStep
from signal_ledger.instants import to_text
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.cli.output import Output
from signal_ledger_adapters.cli.rows import by_channel, of_payload, of_state
from signal_ledger_adapters.cli.views import Row
from signal_ledger_adapters.timeline import execution_numbers, told


class Teller:
    """Tells the events of a job.

    Args:
        history: All of them.
        output: Where they are told.

    Attributes:
        day: The day of which all events are, if instants are told without it.
    """

    def __init__(self, history: Sequence[RecordedEvent], output: Output) -> None:
        self._numbers = execution_numbers(history)
        self._payloads = output.payloads
        self.day = output.tell_story(history[0].recorded_at, history[-1].recorded_at) if history else None
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
