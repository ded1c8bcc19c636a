"""What is told of a run: figures for people and for machines."""

from collections import Counter
from dataclasses import asdict, dataclass

from tests.torture.reached import reached
from tests.torture.signal_rules import NEW, deliveries, direct_calls

LOST = ("acknowledged signals are in the log", "stored signals are relayed")
DOUBLED = ("a signal is delivered once", "one key is one event", "a signal is consumed at most once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a run.

    Attributes:
        acknowledged: Signals that a receipt says are in the log, or that were committed with ``conn=``.
        lost, doubled: Of these.
        unknown: Calls that got no answer, those with ``conn=`` apart; and of these, those that were committed.
        unknown_own: Calls with ``conn=`` in transactions whose commit got no answer; and of these, those that were
            committed. A key that was taken leaves no trace of one, which counts as not committed.
        faults: How often each fault happened, and each thing that operators did.
        reached: How often each interesting case came up.
        worst_latency_ms: Of an acknowledged call.
        worst_unknown_ms: Of a call that got no answer.
        worst_overrun_ms: By how much a call took longer than its timeout, what its process stood still left out.
        verdict: By rule, how many findings.
    """

    engine: str
    seed: int
    seconds: float
    calls: int
    acknowledged: int
    duplicates: int
    ignored: int
    lost: int
    doubled: int
    unknown: int
    unknown_committed: int
    unknown_own: int
    unknown_own_committed: int
    worst_latency_ms: float
    worst_unknown_ms: float
    worst_overrun_ms: float
    faults: dict[str, int]
    reached: dict[str, int]
    events: int
    outcomes_seen: int
    jobs: int
    jobs_completed: int
    verdict: dict[str, int]


def figures_of(run, history, findings):
    """Count."""
    told = Counter(told.outcome for call in history.calls for told in call.receipts)
    new = sum(told[outcome] for outcome in ("woken", "live", "buffered"))
    committed = sum(len(set(call.targets)) for call in history.calls if call.transaction and call.status == "ok")
    unknown = [call for call in history.calls if call.status == "unknown" and call.transaction is None]
    unknown_own = [call for call in history.calls if call.status == "unknown" and call.transaction is not None]
    happened = Counter()
    for play in history.plays:
        happened[play.kind] += play.times
    ends = Counter(event.cause for event in history.log if event.kind == "closed")
    return Figures(
        engine=run.site.engine_name,
        seed=run.seed,
        seconds=run.seconds,
        calls=len(history.calls),
        acknowledged=new + committed,
        duplicates=told["duplicate"],
        ignored=told["ignored"],
        lost=sum(len(findings[rule]) for rule in LOST),
        doubled=sum(len(findings[rule]) for rule in DOUBLED),
        unknown=len(unknown),
        unknown_committed=len(committed_without_answer(history, unknown)),
        unknown_own=len(unknown_own),
        unknown_own_committed=len(committed_without_answer(history, unknown_own)),
        worst_latency_ms=_worst_ms(call.took_s for call in direct_calls(history, "ok")),
        worst_unknown_ms=_worst_ms(call.took_s for call in direct_calls(history, "unknown")),
        worst_overrun_ms=_worst_ms(
            call.took_s - call.timeout_s - call.lagged_s for call in direct_calls(history, "ok", "unknown")
        ),
        faults=dict(sorted(happened.items())),
        reached=reached(history),
        events=len(history.log),
        outcomes_seen=len(history.saws),
        jobs=len(history.scripts),
        jobs_completed=ends["completed"],
        verdict={rule: len(found) for rule, found in findings.items()},
    )


def committed_without_answer(history, unknown):
    """The signals of calls without an answer that one of these calls has delivered.

    A call that repeats another one has the same signal. What its receipt says is new, it has delivered itself.
    """
    signals = {call.signal for call in unknown}
    answered = {
        (told.job_id, told.version)
        for call in history.calls
        if call.signal in signals
        for told in call.receipts
        if told.outcome in NEW
    }
    return {
        event.source
        for event in deliveries(history)
        if event.source in signals and (event.job_id, event.version) not in answered
    }


def _worst_ms(seconds):
    return round(max(seconds, default=0.0) * 1000, 1)


def table(figures):
    """The figures as people read them."""
    rows = {name: value for name, value in asdict(figures).items() if not isinstance(value, dict)}
    width = max(map(len, (*rows, *figures.faults, *figures.reached, *figures.verdict)))
    lines = [f"torture of {figures.engine}", *_lines(rows, width), "  faults", *_lines(figures.faults, width)]
    lines += ["  reached", *_lines(figures.reached, width)]
    verdict = {rule: "holds" if not count else f"BROKEN {count} times" for rule, count in figures.verdict.items()}
    return "\n".join([*lines, "  rules", *_lines(verdict, width)])


def _lines(rows, width):
    return [f"    {name.replace('_', ' '):<{width}}  {value}" for name, value in rows.items()]
