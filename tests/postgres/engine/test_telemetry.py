"""What is told of the jobs of Oban."""

import contextlib

import pytest

from tests.callers import with_psycopg
from tests.telemetry import TelemetryContract

FAIL_ONCE = """
CREATE SEQUENCE failures;
CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.failures') = 1 THEN
        RAISE EXCEPTION 'once' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fails BEFORE INSERT ON signal_ledger.events FOR EACH ROW EXECUTE FUNCTION fail_once();
"""


class TestTelemetryOnOban(TelemetryContract):
    batch = "deliver"

    @pytest.fixture
    async def caller(self, ledger_url):
        async with with_psycopg(ledger_url) as caller:
            yield caller

    def ask(self, it, sql, job_id):
        return it.sql(sql.format(waits="signal_ledger.waits", job_id=job_id))

    @contextlib.asynccontextmanager
    async def one_batch_fails(self, it):
        await it.change(FAIL_ONCE)
        yield
        await it.change("DROP TRIGGER fails ON signal_ledger.events")

    async def end_behind_the_librarys_back(self, it, job):
        await it.change("ALTER FUNCTION signal_ledger.close RENAME TO close_is_gone")
        await it.engine.cancel_job(job)
        await it.change("ALTER FUNCTION signal_ledger.close_is_gone RENAME TO close")
        # What failed is tried again in a minute; that is now.
        await it.change("UPDATE signal_ledger.repairs SET noted_at = clock_timestamp()")
