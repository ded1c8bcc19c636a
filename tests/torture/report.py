"""What is told of a run: figures for people and for machines."""

from collections import Counter
from dataclasses import asdict, dataclass

from tests.torture.history import FOR_EVER
from tests.torture.reached import reached

LOST = ("acknowledged signals are in the log", "stored signals are relayed")
DOUBLED = ("a signal is delivered once", "one key is one event", "a signal is consumed at most once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a run.

    Attributes:
        acknowledged: Signals that a receipt says are in the log, or that were committed with ``conn=``.
        lost, doubled: Of these.
        unknown: Calls that got no answer; and of these, those that had been committed.
        faults: How often each fault happened.
        reached: How often each interesting case came up.
        worst_latency_ms: Of an acknowledged call.
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
    worst_latency_ms: float
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
    sources = {event.source for event in history.log if event.kind == "delivered"}
    unknown = [call for call in history.calls if call.status == "unknown"]
    took = [call.ended - call.began for call in history.calls if call.status == "ok" and call.ended != FOR_EVER]
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
        unknown_committed=sum(call.signal in sources for call in unknown),
        worst_latency_ms=round(max(took, default=0) / 1e6, 1),
        faults=dict(sorted(run.happened.items())),
        reached=reached(history),
        events=len(history.log),
        outcomes_seen=len(history.saws),
        jobs=len(history.scripts),
        jobs_completed=ends["completed"],
        verdict={rule: len(found) for rule, found in findings.items()},
    )


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
