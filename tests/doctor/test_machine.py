"""The doctor on the machine that it runs on."""

import subprocess
import sys
import sysconfig

import pytest

from signal_ledger_adapters.doctor import Status, machine
from tests.doctor.looked import MACHINE, looked


@pytest.fixture
async def found(path):
    """Look the machine over; what the file is like does not matter."""

    async def look():
        return await looked(f"sqlite:///{path}")

    return look


async def test_a_compiler_that_is_missing_is_noted(found, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = (await found())["compiler"]
    assert told.status is Status.NOTE
    assert told.found == "this machine has no C++ compiler: erlpack is installed, and could not be installed anew"
    assert "apt-get install g++ python3-dev" in told.advice
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert (await found())["compiler"].status is Status.OK


async def test_headers_that_are_missing_are_noted(found, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    assert "no headers of Python" in (await found())["compiler"].found
    # Python's own exists() raises where it may not look.
    (tmp_path / "Python.h").touch()
    assert "no headers of Python" not in (await found())["compiler"].found


@pytest.mark.parametrize(
    ("specimen", "told"),
    [
        (object(), "expected erlpack to encode a payload, got PayloadError"),
        (float("nan"), "expected a payload to come back equal, got another one"),
    ],
)
async def test_a_codec_that_does_not_work_is_found(found, monkeypatch, specimen, told):
    assert (await found())["codec"].status is Status.OK
    monkeypatch.setattr(machine, "_SPECIMEN", specimen)
    broken = (await found())["codec"]
    assert (broken.status, broken.found) == (Status.FINDING, told)
    assert "install erlpack anew" in broken.advice


async def test_a_machine_that_does_not_answer_in_time_is_found(path):
    checks = await looked(f"sqlite:///{path}", timeout_s=0)
    assert [checks[name].found for name in MACHINE] == ["expected an answer within 0 s, got none"] * 2


def test_what_hangs_keeps_no_program_from_its_end():
    script = """
import asyncio, threading
from signal_ledger_adapters.doctor.check import in_thread

try:
    asyncio.run(in_thread(threading.Event().wait, 0.05))
except TimeoutError:
    print("in time")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "in time\n"
