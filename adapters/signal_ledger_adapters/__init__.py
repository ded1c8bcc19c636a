"""Everything of signal-ledger that touches the world: databases, Oban, processes.

The core, `signal_ledger`, does not import it; only its façades name modules of it (see pyproject.toml).
"""
