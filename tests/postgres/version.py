"""Which PostgreSQL to test with."""

import os

VERSION_VARIABLE = "SIGNAL_LEDGER_POSTGRES"
"""Names the major version to test with, such as 15; without it, the newest that is there."""


def wanted_version():
    """The version that the environment names; None for the newest."""
    return int(os.environ.get(VERSION_VARIABLE) or 0) or None
