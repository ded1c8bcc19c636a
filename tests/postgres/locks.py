"""Locks that tests hold, and who waits for them."""

import contextlib

import psycopg


@contextlib.contextmanager
def held(url, job_id):
    """Somebody has locked a job and is in no hurry."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job_id])
        yield


def waiting_backends(url):
    """How many connections to a database wait for a lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        [[count]] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
    return count
