"""``python -m signal_ledger``: the program ``signal-ledger``."""

from signal_ledger_adapters.cli.program import main

if __name__ == "__main__":
    main()
