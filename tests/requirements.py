"""What tests need of the machine: a program that is not installed, or something that is not allowed here."""

import os
import shutil

import pytest


def require_program(name, package):
    """Return a program's path; skip the test where it is missing.

    CI as root installs what tests need, so there it is a failure: a fault that nobody plays proves nothing.
    """
    path = shutil.which(name)
    if path is None:
        lacking(f"{name} is not here: apt-get install {package}")
    return path


def lacking(reason):
    """Skip the test for want of something that can be installed; fail it where CI should have installed it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{reason} (CI is set, and root can install it: nothing is skipped)")
    pytest.skip(reason)
