"""A fork has copies of connections that only the process that opened them may use: see `tests.forking`."""

from tests.forking import play


def test_what_was_opened_before_a_fork_says_so_in_the_fork_and_goes_on_in_the_parent(ledger_url, record_property):
    played = play("oban", ledger_url)
    played.check(ledger="ledger: ", record_property=record_property)
