"""The façade: what it offers, and what importing it costs."""

import os
import subprocess
import sys

import pytest

import signal_ledger
from signal_ledger.backends import backend_for


def test_every_public_name_is_there():
    for name in signal_ledger.__all__:
        assert getattr(signal_ledger, name) is not None
    assert dir(signal_ledger) == signal_ledger.__all__


def test_the_codec_is_there_without_an_import_of_its_own():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import signal_ledger; print(signal_ledger.codec.decode(signal_ledger.codec.encode(7)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "7\n"


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'signal_ledger' has no attribute 'nonsense'"):
        _ = signal_ledger.nonsense


def test_importing_it_loads_no_driver_and_no_engine():
    loaded = subprocess.run(
        [sys.executable, "-c", "import signal_ledger, sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
    ).stdout.split()
    for module in ("sqlalchemy", "aiosqlite", "asyncpg", "oban", "psycopg", "erlpack", "sqlite3", "asyncio"):
        assert module not in loaded, module


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (
            "mysql://localhost/db",
            ValueError,
            "no backend for mysql://; installed: postgres://, postgresql://, sqlite://",
        ),
        ("signals.db", ValueError, "expected a database URL such as sqlite:///signals.db"),
        (7, TypeError, "url: expected a str, got int"),
    ],
)
def test_urls_without_a_backend_are_refused(url, error, message):
    with pytest.raises(error, match=message):
        signal_ledger.open_ledger(url)


def test_drivers_may_be_named_in_the_url():
    assert backend_for("sqlite+aiosqlite:///signals.db") is backend_for("sqlite:///signals.db")
