"""The mutants that CI plays: others every day, and all of them in the end."""

from collections import Counter

import pytest

from tests.mutants.planting import changed
from tests.torture.checker import RULES
from tests.torture.mutants import MUTANTS, SOME_MIN, in_turns


@pytest.mark.parametrize("name", list(MUTANTS))
def test_what_a_mutant_changes_is_there(name):
    assert changed(MUTANTS[name])


def test_each_order_has_every_mutant_once():
    assert Counter(in_turns(739_946)) == Counter(MUTANTS.keys())


def test_every_mutant_is_among_the_first_within_as_many_days_as_there_are():
    days = [in_turns(seed)[:SOME_MIN] for seed in range(739_946, 739_946 + len(MUTANTS))]
    assert {name for first in days for name in first} == set(MUTANTS)


def test_the_first_are_of_both_engines():
    assert {MUTANTS[name][0]["engine"] for name in in_turns(1)[:SOME_MIN]} == {"lite", "postgres"}


def test_mutants_break_rules_that_there_are():
    assert {rule for changes in MUTANTS.values() for rule in changes[0]["rules"]} <= set(RULES)
