"""The embedded demo: purchase approvals that survive kill -9. Run it with ``python -m signal_ledger_adapters.demo``.

Three kinds of processes share one SQLite file: a worker, which is killed and replaced; a signaller, which knows
nothing but the file; and the director, which starts both and watches the log.
"""
