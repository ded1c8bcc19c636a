"""Everything of signal-ledger that touches the world: databases, Oban, processes.

The core, `signal_ledger`, does not import it; its façade names `composition` only.
"""
