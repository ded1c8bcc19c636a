"""For tests: a clock that stands still, the contract of stores, and a state machine that compares them.

A store of another kind is held to the contract by binding `signal_ledger.testing.bench.Bench` to it, and subclassing
`signal_ledger.testing.contract.StoreContract`.
"""
