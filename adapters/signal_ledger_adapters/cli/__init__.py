"""The command line: what the library can do, at a terminal.

`program` is the program, ``signal-ledger``. Each module of `commands` has some commands: their options, and what they
do. They get rows from the ledger and hand them to `output`, which knows tables, JSON and CSV; `views` says which keys
the rows of each command have. Whatever goes wrong becomes a line on standard error and a status of `exits`.

Modules here import what is heavy where it is used, so that ``--help`` and completion are quick.
"""
