"""A fork has copies of connections that only the process that opened them may use."""

from tests.forking import play


def test_what_was_opened_before_a_fork_says_so_in_the_fork_and_goes_on_in_the_parent(tmp_path, record_property):
    path = tmp_path / "signals.db"
    played = play("lite", f"sqlite:///{path}")
    played.check(ledger=f"{path}: ", record_property=record_property)
