"""A short torture of each engine: everything at once, in several processes."""

import os

import pytest

from signal_ledger_adapters.postgres.binaries import PostgresMissingError
from tests.torture.__main__ import torture

SECONDS = 5


@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ["lite", "postgres"])
async def test_nothing_is_lost_and_nothing_happens_twice(engine, tmp_path):
    try:
        figures, findings = await torture(engine, tmp_path, seed=1, seconds=SECONDS)
    except PostgresMissingError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    assert findings == [], [str(finding) for finding in findings]
    assert min(figures.acknowledged, figures.events, figures.outcomes_seen, figures.jobs_completed) > 0
