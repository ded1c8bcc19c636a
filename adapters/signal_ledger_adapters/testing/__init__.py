"""The test kit for applications; its public names are those of `signal_ledger.testing`."""
