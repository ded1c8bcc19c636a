"""Callers with a connection and a transaction of their own, for ``conn=``."""

import contextlib
from dataclasses import dataclass
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine


@dataclass
class Caller:
    """A caller's connection, whatever it is, with a transaction of its own."""

    conn: Any
    run: Any
    commit: Any
    rollback: Any


def make_engine(url, driver):
    """Make an engine of SQLAlchemy's for a URL that names no driver."""
    url = make_url(url)
    return create_async_engine(url.set(drivername=f"{url.get_backend_name()}+{driver}"))


@contextlib.asynccontextmanager
async def sqlalchemy_session(engine):
    async with AsyncSession(engine) as session:
        yield _caller(session)
    await engine.dispose()


@contextlib.asynccontextmanager
async def sqlalchemy_connection(engine):
    async with engine.connect() as connection:
        yield _caller(connection)
    await engine.dispose()


@contextlib.asynccontextmanager
async def with_aiosqlite(path):
    async with aiosqlite.connect(path) as connection:

        async def run(sql):
            cursor = await connection.execute(sql)
            row = await cursor.fetchone()
            return None if row is None else row[0]

        yield Caller(connection, run, connection.commit, connection.rollback)


@contextlib.asynccontextmanager
async def with_psycopg(url, row_factory=tuple_row):
    async with await psycopg.AsyncConnection.connect(url, row_factory=row_factory) as connection:

        async def run(sql):
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(sql)
                return (await cursor.fetchone())[0] if cursor.description else None

        yield Caller(connection, run, connection.commit, connection.rollback)


@contextlib.asynccontextmanager
async def with_asyncpg(url):
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield Caller(connection, connection.fetchval, transaction.commit, transaction.rollback)
    await connection.close()


def _caller(connection):
    """A session or a connection of SQLAlchemy's as a caller."""

    async def run(sql):
        result = await connection.execute(text(sql))
        return result.scalar() if result.returns_rows else None

    return Caller(connection, run, connection.commit, connection.rollback)
