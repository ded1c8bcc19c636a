"""The benchmarks of PostgreSQL run, on small numbers; what they measure is no test's business."""

import pytest

from benchmarks import oban_engine, postgres


@pytest.mark.timeout(240)
async def test_the_benchmark_of_deliveries_runs(cluster, tmp_path, monkeypatch):
    assert cluster.is_running
    monkeypatch.setattr(postgres, "JOBS", 20)
    monkeypatch.setattr(postgres, "LIST", 10)
    monkeypatch.setattr(postgres, "TASKS", (1, 4))
    figures = await postgres.postgres(tmp_path, 1, 0.05)
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.timeout(240)
async def test_the_benchmark_of_the_engine_runs(cluster, tmp_path, monkeypatch):
    assert cluster.is_running
    monkeypatch.setattr(oban_engine, "MANY", 20)
    monkeypatch.setattr(oban_engine, "PARKED", (5, 10))
    monkeypatch.setattr(oban_engine, "SAMPLES", 5)
    monkeypatch.setattr(oban_engine, "IDLE_S", 0.5)
    figures = await oban_engine.oban_engine(tmp_path, 1, 0.05)
    assert all(figure.value >= 0 for figure in figures)
