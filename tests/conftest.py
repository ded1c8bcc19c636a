"""Fixtures of all tests. Nothing here is a stand-in: stores are real, files are files."""

import pytest

pytest.register_assert_rewrite("signal_ledger.testing")
