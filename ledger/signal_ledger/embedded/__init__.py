"""The rules of the embedded engine's jobs: the part of Oban's behaviour that one machine needs, as pure functions.

On PostgreSQL Oban itself does all this.
"""
