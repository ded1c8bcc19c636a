"""The demo on Oban and PostgreSQL: the same workers, two nodes, one of them killed."""

import sys
from subprocess import run

import pytest

from tests.demo.told import check_told


@pytest.mark.timeout(240)
def test_the_demo_plays_through_on_postgres(cluster, tmp_path):
    assert cluster.is_running
    done = run(
        [sys.executable, "-m", "signal_ledger_adapters.demo", "--postgres"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_told(done.stdout)
