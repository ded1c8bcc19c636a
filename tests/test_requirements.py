"""What a test needs and does not find skips it, and fails it where CI could have installed it."""

import os

import pytest

from tests.requirements import require_program


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_program_that_is_there_is_found(monkeypatch, ci):
    monkeypatch.setenv("CI", ci)
    assert require_program("sh", "dash").endswith("/sh")


def test_a_missing_program_skips_a_test_with_the_reason(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not here: apt-get install no-such-package"):
        require_program("no-such-program", "no-such-package")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install it")
def test_a_missing_program_fails_a_test_where_ci_could_have_installed_it(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not here"):
        require_program("no-such-program", "no-such-package")
