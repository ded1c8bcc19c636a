"""The benchmarks of PostgreSQL run, on small numbers; what they measure is no test's business."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import audit, audit_logs, flow, idle, log_size, oban_engine, postgres, telemetry, where
from benchmarks import cluster as bench_cluster
from benchmarks.options import Options
from benchmarks.usage import Usage
from signal_ledger import lite, open_ledger
from tests.eventually import eventually


@pytest.fixture
def options(cluster, tmp_path):
    assert cluster.is_running
    return Options(folder=tmp_path, rounds=1, seconds=0.05, events=(0, 40))


@pytest.mark.timeout(240)
async def test_the_benchmark_of_deliveries_runs(options, monkeypatch):
    monkeypatch.setattr(postgres, "PARKED", 1500)
    monkeypatch.setattr(postgres, "FRESH", 20)
    monkeypatch.setattr(postgres, "LIST", 10)
    monkeypatch.setattr(postgres, "TASKS", (1, 4))
    figures = await postgres.postgres(options)
    assert all(figure.value > 0 for figure in figures if "server CPU" not in figure.name)


@pytest.mark.timeout(240)
async def test_the_benchmark_of_telemetry_runs_and_takes_out_the_places_that_tell(options):
    """That it takes them out, and that nothing is told then, each of its processes looks at itself."""
    figures = await telemetry.telemetry(options)
    assert len(figures) == 16
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.timeout(240)
async def test_the_benchmark_of_the_logs_length_runs(options, monkeypatch):
    monkeypatch.setattr(log_size, "SIGNALS", {1: 20, 32: 64})
    monkeypatch.setattr(log_size, "WARM_S", 0.0)
    figures = await log_size.log_size(options)
    assert [figure.at for figure in figures] == [0, 40, 0, 40]
    assert all(figure.value > 0 for figure in figures)


async def test_the_history_that_is_loaded_for_it_is_valid(cluster, ledger_url, monkeypatch):
    monkeypatch.setattr(log_size, "JOBS_AT_ONCE", 7)
    await log_size.load_history(ledger_url, 80)
    async with open_ledger(ledger_url) as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
        assert (report.events, report.streams) == (80, 20)
        [last] = await bench_cluster.enqueue(ledger_url, 1, worker="bench.Worker", park=True)
        assert last > 20
        assert (await ledger.signal(last, "go")).outcome == "woken"


@pytest.mark.timeout(240)
async def test_the_benchmark_of_the_engine_runs(options, monkeypatch):
    monkeypatch.setattr(oban_engine, "MANY", 20)
    monkeypatch.setattr(oban_engine, "LIVE", 10)
    monkeypatch.setattr(oban_engine, "SAMPLES", 5)
    figures = await oban_engine.oban_engine(options)
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.timeout(240)
async def test_the_benchmark_of_an_idle_worker_runs(options, monkeypatch):
    monkeypatch.setattr(idle, "PARKED", (5, 10))
    monkeypatch.setattr(idle, "SETTLE_S", 0.1)
    monkeypatch.setattr(idle, "IDLE_S", 0.5)
    figures = await idle.idle(options)
    assert {figure.series for figure in figures} == {"statements", "connections", "memory"}
    assert all(figure.value > 0 for figure in figures if figure.series == "connections")


async def test_the_benchmark_that_tells_where_the_time_goes_runs(options, monkeypatch):
    monkeypatch.setattr(where, "PARKED", 500)
    figures = await where.where(options)
    assert any("signal_ledger" in figure.name for figure in figures)
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
async def test_the_processor_time_of_the_server_is_measured(cluster, ledger_url):
    before = Usage.so_far(cluster.postmaster_pid)
    async with open_ledger(ledger_url) as ledger:
        while Usage.so_far(cluster.postmaster_pid).since(before).server_s < 0.05:
            await ledger.verify()

    async def is_counted():
        return Usage.so_far(cluster.postmaster_pid).since(before).server_s >= 0.05

    # The connection's process has ended, or is about to.
    await eventually(is_counted)


async def test_the_benchmark_of_workflows_runs(options, monkeypatch):
    monkeypatch.setattr(flow, "SMALL", 3)
    figures = await flow.flow(replace(options, steps=5))
    assert len(figures) == 8
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.timeout(240)
async def test_the_benchmark_of_the_audit_runs(options, monkeypatch):
    monkeypatch.setattr(audit, "REPEATS", 1)
    figures = await audit.audit(replace(options, audited=(400, 4000), waits=100, verified=(400,)))
    assert {figure.unit for figure in figures} == {"ms", "µs/event", "MiB more"}
    assert all(figure.value > 0 for figure in figures if figure.unit != "MiB more")


async def test_the_logs_that_auditors_ask_answer_alike(tmp_path, cluster, ledger_url, monkeypatch):
    monkeypatch.setattr(audit_logs, "JOBS_AT_ONCE", 300)
    monkeypatch.setattr(audit_logs, "RARE", 20)
    async with lite(f"sqlite:///{tmp_path}/log.db", queues={}):
        audit_logs.fill_sqlite(tmp_path / "log.db", 4000, 100)
    await audit_logs.fill_postgres(ledger_url, 4000, 100)
    answers = []
    for url in (f"sqlite:///{tmp_path}/log.db", ledger_url):
        async with open_ledger(url, read_only=True) as ledger:
            counts = {}
            for name, ask in audit.questions(4000).items():
                found = await ask(ledger)
                counts[name] = found if isinstance(found, int) else len(found) if isinstance(found, list) else found
            answers.append(counts)
    assert answers[0] == answers[1]
    assert answers[0]["events, rare source"] == answers[0]["waiting, rare channel"] == 20
