"""Laws of saved histories: what is saved is loaded again, whatever it is."""

import io
from datetime import UTC, datetime

from hypothesis import event, given
from hypothesis import strategies as st

from property_tests.test_fold import HISTORIES, JOB
from signal_ledger.evolve import fold
from signal_ledger.history import History
from signal_ledger.jobs import JobState
from signal_ledger.recorded_job import RecordedJob

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds
TEXTS = st.lists(st.text(max_size=5), max_size=2).map(tuple)

JOBS = st.builds(
    RecordedJob,
    worker=st.text(),
    queue=st.text(),
    state=st.sampled_from(JobState),
    priority=st.integers(0, 9),
    attempt=st.integers(0, 20),
    max_attempts=st.integers(1, 20),
    args=DOCUMENTS,
    meta=DOCUMENTS,
    tags=TEXTS,
    errors=st.lists(DOCUMENTS, max_size=2).map(tuple),
    attempted_by=TEXTS,
    inserted_at=INSTANTS,
    scheduled_at=INSTANTS,
    attempted_at=st.none() | INSTANTS,
    cancelled_at=st.none() | INSTANTS,
    completed_at=st.none() | INSTANTS,
    discarded_at=st.none() | INSTANTS,
)


@given(written=HISTORIES, job=st.none() | JOBS)
def test_what_is_saved_is_loaded_again(written, job):
    history = History(job_id=JOB, events=tuple(written.events), job=job)
    event(f"events: {min(len(history), 5)}, job: {job is not None}")
    stream = io.StringIO()
    stream.writelines(f"{line}\n" for line in history.to_lines())
    stream.seek(0)
    assert History.from_lines(stream) == history


@given(written=HISTORIES, data=st.data())
def test_l3_a_history_that_was_cut_replays_like_the_whole_one_up_to_there(written, data):
    history = History(job_id=JOB, events=tuple(written.events))
    cut = history.until(data.draw(st.integers(0, len(history))))
    assert list(cut.replay()) == list(history.replay())[: len(cut)]
    assert fold(JOB, cut) == ([step.state for step in cut.replay()] or [fold(JOB, [])])[-1]
