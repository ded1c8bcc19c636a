"""The wheel and the source distribution: what is in them, and that they are all a user needs."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"signal_ledger": ROOT / "ledger", "signal_ledger_adapters": ROOT / "adapters"}


def run(*command, cwd):
    """Run a command that knows nothing of this repository's environment, and return what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COVERAGE", "PYTEST", "PYTHON", "VIRTUAL_ENV"))
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source, kind, folder):
    """Build a distribution without isolation, by what the environment has, and return it."""
    run(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", folder, cwd=source)
    [built] = folder.iterdir()
    return built


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_two_packages_whole_and_nothing_else(wheel):
    source = {
        path.relative_to(root).as_posix()
        for package, root in PACKAGES.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = names_in(wheel)
    told = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - told == source
    assert {name.split("/", 1)[1] for name in told} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_wheel_brings_types_and_sql_and_no_tests(wheel):
    names = names_in(wheel)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for folder in ("migrations", "queries"):
        assert any(
            name.startswith(f"signal_ledger_adapters/sqlite/{folder}/") and name.endswith(".sql") for name in names
        )
    assert not [name for name in names if Path(name).name.startswith(("test_", "conftest"))]


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    rebuilt = build(source, "wheel", tmp_path / "wheel")
    assert rebuilt.name == wheel.name
    assert names_in(rebuilt) == names_in(wheel)
    for needed_by_tests in ("run", "constraints.txt", "tests/packaging/test_distributions.py"):
        assert (source / needed_by_tests).exists()


# Dependencies come from the registry, and erlpack is compiled.
@pytest.mark.timeout(900)
def test_the_example_runs_with_the_wheel_in_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    constraints = ROOT / "constraints.txt"
    run(*pip, "install", "--constraint", constraints, "--build-constraint", constraints, wheel, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)

    folder = tmp_path / "empty"
    folder.mkdir()
    loaded = run(
        python, "-c", "import signal_ledger, sys; print(signal_ledger.__file__, *sys.modules)", cwd=folder
    ).split()
    assert Path(loaded[0]).is_relative_to(environment)
    assert not {"sqlalchemy", "aiosqlite", "asyncpg", "oban", "erlpack", "click", "rich"} & set(loaded)

    application = shutil.copy(Path(__file__).with_name("approval.py"), folder)
    assert run(python, application, cwd=folder).splitlines() == [
        "approved: live",
        "the card of user 1 is charged",
        "declined: woken",
        "1 completed",
        "2 cancelled declined: too dear",
        "3 cancelled no decision",
        "1 awaited delivered consumed closed",
        "2 awaited snoozed delivered consumed closed",
        "3 awaited snoozed timed_out closed",
        "verify: ok (13 events, 3 streams)",
    ]

    program = environment / "bin" / "signal-ledger"
    told = run(program, "--url", "sqlite:///signals.db", "timeline", "2", cwd=folder)
    kinds = [json.loads(line)["kind"] for line in told.splitlines()]
    assert kinds == ["awaited", "snoozed", "delivered", "consumed", "closed"]
