"""Transactions of clients' own, for ``signal(conn=)``: with each driver that the library takes."""

import contextlib
from pathlib import Path

import aiosqlite
import asyncpg
import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

CONNECT_S = 5


def of(engine, url):
    """Return what opens a transaction: a connection and what commits it. Left without a commit, it is rolled back."""
    return (lambda rng: _sqlite(url)) if engine == "lite" else (lambda rng: rng.choice(_POSTGRES)(url))


@contextlib.asynccontextmanager
async def _sqlite(url):
    async with aiosqlite.connect(Path(url.removeprefix("sqlite:///")), timeout=CONNECT_S) as connection:
        yield connection, connection.commit


@contextlib.asynccontextmanager
async def _psycopg(url):
    connection = await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_S)
    try:
        yield connection, connection.commit
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _asyncpg(url):
    connection = await asyncpg.connect(url, timeout=CONNECT_S)
    try:
        transaction = connection.transaction()
        await transaction.start()
        yield connection, transaction.commit
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _sqlalchemy(url):
    asked = make_url(url.replace("postgresql://", "postgresql+asyncpg://"))
    name = asked.query["application_name"]
    engine = create_async_engine(
        asked.difference_update_query(["application_name"]),
        poolclass=NullPool,
        connect_args={"server_settings": {"application_name": name}},
    )
    async with engine.connect() as connection:
        yield connection, connection.commit


_POSTGRES = (_psycopg, _asyncpg, _sqlalchemy)
