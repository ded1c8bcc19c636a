"""The checker: pure functions over a history, one for each rule."""

import traceback
from dataclasses import replace

from tests.torture import end_rules, log_rules, signal_rules, wait_rules
from tests.torture.findings import Finding

RULES = {
    rule.__name__.replace("_", " "): rule
    for rule in (
        signal_rules.acknowledged_signals_are_in_the_log,
        signal_rules.stored_signals_are_relayed,
        signal_rules.stored_signals_keep_their_order,
        signal_rules.nothing_is_in_the_log_that_nobody_sent,
        signal_rules.duplicates_are_told_what_became_of_the_first,
        signal_rules.lists_are_all_or_nothing,
        signal_rules.a_signal_is_delivered_once,
        signal_rules.one_key_is_one_event,
        signal_rules.the_log_keeps_real_time_order,
        signal_rules.a_living_job_ignores_nothing,
        signal_rules.calls_end_in_time,
        signal_rules.clients_meet_only_errors_that_are_told,
        wait_rules.a_signal_is_consumed_at_most_once,
        wait_rules.a_wait_has_one_outcome,
        wait_rules.every_execution_sees_the_recorded_outcome,
        wait_rules.channels_are_first_in_first_out,
        wait_rules.no_wait_times_out_early,
        wait_rules.only_the_oldest_signal_is_judged_by_the_deadline,
        wait_rules.deadlines_never_move,
        wait_rules.deadlines_are_what_was_asked_for,
        log_rules.streams_have_no_gaps_and_time_never_runs_backwards,
        log_rules.no_older_execution_writes,
        log_rules.each_snapshot_is_a_prefix_of_the_next,
        log_rules.the_run_was_watched,
        log_rules.a_follower_misses_nothing,
        log_rules.the_projection_is_the_fold_of_the_log,
        log_rules.outcomes_of_deliveries_fit_the_wait,
        log_rules.the_librarys_own_verify_agrees,
        end_rules.everything_is_accounted_for,
        end_rules.completed_jobs_have_followed_their_script,
        end_rules.nothing_is_left_in_the_outbox,
        end_rules.every_fault_that_was_played_happened,
        end_rules.every_kind_of_fault_happened,
        end_rules.nothing_leaks,
        end_rules.processes_meet_no_errors,
    )
}


def check(history):
    """Return the findings by rule; a rule that holds has none."""
    return {name: [replace(finding, rule=name) for finding in _findings(rule, history)] for name, rule in RULES.items()}


def _findings(rule, history):
    """A history can be so wrong that a rule cannot read it."""
    try:
        yield from rule(history)
    except Exception:
        yield Finding(expected="a history that can be read", found=traceback.format_exc())
