"""The state machine that is shipped needs nothing from a subclass but its stores."""

import pytest
from hypothesis import settings

from signal_ledger.jobs import JobState
from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.comparing import play
from signal_ledger.testing.flow_machine import FlowMachine
from signal_ledger.testing.machine import LedgerMachine


class Twins:
    async def open_benches(self):
        clocks = [ManualClock(), ManualClock()]
        stores = [MemoryStore(clock) for clock in clocks]
        return [EmbeddedBench(store, clock, store.begin) for store, clock in zip(stores, clocks, strict=True)]


class LedgerTwins(Twins, LedgerMachine):
    pass


class FlowTwins(Twins, FlowMachine):
    pass


GLANCE = settings(max_examples=5, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("machine", [LedgerTwins, FlowTwins])
def test_two_stores_of_one_kind_agree(machine):
    play(machine, settings=GLANCE, complete=False)
    assert sum(machine.reached.values()) > 0


def test_the_same_histories_are_played_each_time():
    """So many that every rule is met, so that what is measured in this run is no matter of luck."""
    the_same = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None)
    play(LedgerTwins, settings=the_same, complete=False)
    assert sum(LedgerTwins.reached.values()) > 0


def test_steps_are_played_by_hand():
    """What random histories meet only now and then."""
    machine = FlowTwins()
    machine.open(shape="nothing", ignore=set())
    for deps, max_attempts in (({1}, 20), (set(), 20), (set(), 1)):
        machine.insert(deps=deps, is_ordered=False, ignore=set(), scheduled_in=None, max_attempts=max_attempts)
    machine.execute(place=0)
    for outcome, is_zombie in ((JobState.CANCELLED, True), (JobState.COMPLETED, False)):
        machine.finish(place=0, outcome=outcome, is_zombie=is_zombie)
    for place in (1, 0):
        machine.execute(place=place)
        machine.finish(place=0, outcome=JobState.RETRYABLE, is_zombie=False)
    assert [one.state for one in machine._steps()] == ["retryable", "completed", "discarded"]
    # None is held, and nothing happens.
    machine.send(place=0, is_held=True)
    machine.operate_on_held(place=0, deed="retry")
    for deed in ("retry", "cancel", "delete"):
        machine.operate_on_ended(place=0, deed=deed)
        machine.operate(place=0, deed=deed)
    machine.retry_workflow()
    for fault in ("crash", "rescue", "rebuild", "prune"):
        machine.disturb(fault=fault)
    machine.teardown()


def test_a_run_that_misses_what_it_should_meet_proves_little():
    class Unlucky(Twins, LedgerMachine):
        to_reach = ("woken", "what never happens")

    with pytest.raises(AssertionError, match=r"a run that never met .*'what never happens'"):
        play(Unlucky, rounds_max=2, settings=GLANCE)


def test_a_run_goes_on_until_it_has_met_everything():
    class Lucky(Twins, LedgerMachine):
        to_reach = ("slept",)

    play(Lucky, rounds_max=50, settings=settings(GLANCE, derandomize=False, database=None))
    assert Lucky.reached["slept"] > 0
    assert LedgerMachine.reached["slept"] == 0


def test_another_round_is_another_one_also_where_hypothesis_is_derandomized():
    def examples_of(rounds_max):
        examples = []

        class Unlucky(Twins, LedgerMachine):
            to_reach = ("what never happens",)

            async def open_benches(self):
                examples.append([])
                return await super().open_benches()

            def _same(self, act):
                examples[-1].append(act.__code__.co_firstlineno)
                return super()._same(act)

        with pytest.raises(AssertionError, match="what never happens"):
            play(Unlucky, rounds_max=rounds_max, settings=settings(GLANCE, derandomize=True, database=None))
        return examples

    one, two = examples_of(1), examples_of(2)
    assert two[: len(one)] == one
    assert two[len(one) :] not in ([], one)


def test_stores_that_disagree_are_told():
    class Deaf(EmbeddedBench):
        async def cancel(self, job_id):
            """Does nothing."""

    class Differing(LedgerMachine):
        async def open_benches(self):
            clocks = [ManualClock(), ManualClock()]
            stores = [MemoryStore(clock) for clock in clocks]
            return [
                kind(store, clock, store.begin)
                for kind, store, clock in zip((EmbeddedBench, Deaf), stores, clocks, strict=True)
            ]

    with pytest.raises(AssertionError, match="cancelled"):
        play(Differing, settings=settings(max_examples=50, deadline=None, database=None))


class Crashing(Twins):
    async def crash_benches(self):
        for bench in self.benches:
            bench.go_on_with(bench.store)
        return self.benches


@pytest.mark.parametrize("machine", [LedgerMachine, FlowMachine])
@pytest.mark.parametrize(("stores", "crashes"), [(Twins, 0), (Crashing, 1)])
def test_a_crash_counts_only_if_one_is_played(machine, stores, crashes):
    class Machine(stores, machine):
        """Some stores, and what is done to them."""

    state = Machine()
    try:
        state.benches = before = state._run(state.open_benches())
        state.disturb("crash")
        assert state.benches is before
        assert Machine.reached["crash"] == crashes
    finally:
        state.teardown()


def test_a_machine_that_plays_no_crash_has_not_met_everything():
    with pytest.raises(AssertionError, match=r"a run that never met .*'crash'"):
        play(LedgerTwins, rounds_max=1, settings=GLANCE)
