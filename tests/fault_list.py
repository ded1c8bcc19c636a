"""The faults that tests play on each engine: the rows of the page that `tests.fault_report` writes.

A test with figures that no row names is listed there under its own name.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """A row: which tests play it on each engine, or why none does."""

    name: str
    lite: tuple[str, ...] | str
    oban: tuple[str, ...] | str


_NO_SERVER = "there is no server"
_OF_POSTGRES = "PostgreSQL's own matter"

FAULTS = [
    Fault(
        "the process is killed at any system call that writes, syncs, truncates or deletes",
        (
            "test_d1_a_writer_killed_at_any_write_or_sync_loses_nothing_and_doubles_nothing",
            "test_a_process_killed_while_it_makes_a_file_leaves_one_that_opens",
        ),
        "the server alone writes files",
    ),
    Fault(
        "the worker is killed at any suspension of its job",
        ("test_d1_w8_w9_a_worker_killed_at_any_suspension_loses_nothing_and_doubles_nothing",),
        ("test_d1_w8_w9_a_node_killed_at_any_suspension_loses_nothing_and_doubles_nothing",),
    ),
    Fault(
        "the process is killed at any suspension of its relay",
        ("test_d1_d8_a_relay_killed_at_any_suspension_loses_nothing_and_doubles_nothing",),
        "a relay is one statement",
    ),
    Fault(
        "the power is cut before any sync or after any receipt",
        (
            "test_d1_no_power_cut_loses_what_was_acknowledged",
            "test_a_power_cut_while_a_file_is_made_leaves_one_that_opens",
        ),
        f"{_OF_POSTGRES}: see its crashes",
    ),
    Fault(
        "a sync fails once, and then the power is cut",
        ("test_d1_a_sync_that_failed_once_may_have_forgotten_everything",),
        _OF_POSTGRES,
    ),
    Fault("the server crashes", _NO_SERVER, ("test_d1_a_crash_of_the_server_loses_and_doubles_nothing",)),
    Fault(
        "the disk fails once, at the nth write or sync",
        ("test_d1_after_an_error_of_the_disk_every_call_goes_on",),
        _OF_POSTGRES,
    ),
    Fault(
        "the disk goes on failing",
        ("test_d6_a_disk_that_goes_on_failing_is_named_and_calls_go_on_when_it_is_well",),
        _OF_POSTGRES,
    ),
    Fault(
        "the disk is full",
        ("test_d1_a_full_disk_is_named_and_calls_go_on_when_there_is_room",),
        ("test_d1_a_full_disk_is_told_and_loses_nothing",),
    ),
    Fault(
        "the database turns read-only",
        (
            "test_d1_files_that_are_made_read_only_under_a_ledger_are_named_and_calls_go_on_when_they_can_be_written",
            "test_d1_a_file_system_that_turns_read_only_under_a_ledger_is_named_and_nothing_is_lost",
        ),
        ("test_d1_a_server_that_comes_back_read_only_is_waited_for",),
    ),
    Fault(
        "files are deleted, moved or replaced",
        (
            "test_d1_no_signal_is_acknowledged_into_a_file_that_is_not_there_any_more",
            "test_d6_a_call_goes_on_when_the_file_is_put_back",
            "test_d1_a_file_that_is_deleted_during_the_commit_is_noticed",
        ),
        _OF_POSTGRES,
    ),
    Fault(
        "another program holds the write lock",
        (
            "test_d6_a_lock_beyond_the_timeout_is_named_and_calls_go_on_when_it_is_gone",
            "test_w5_jobs_go_on_when_a_lock_is_gone_that_was_there_while_they_fell_asleep",
        ),
        "locks are on rows: see the deadlocks",
    ),
    Fault(
        "deadlocks and conflicts, at each isolation level",
        "there is one writer at a time",
        ("test_deadlocks_and_conflicts_at_every_default_level_are_tried_again",),
    ),
    Fault(
        "the process is forked",
        ("test_what_was_opened_before_a_fork_says_so_in_the_fork_and_goes_on_in_the_parent",),
        ("test_what_was_opened_before_a_fork_says_so_in_the_fork_and_goes_on_in_the_parent",),
    ),
    Fault(
        "backends are terminated",
        _NO_SERVER,
        ("test_d1_connections_that_are_ended_from_within_lose_and_double_nothing",),
    ),
    Fault(
        "the listener is killed, again and again",
        _NO_SERVER,
        ("test_without_a_listener_live_waits_resume_within_the_polling_second",),
    ),
    Fault(
        "replies get lost, also those to a commit",
        _NO_SERVER,
        ("test_d1_replies_that_are_lost_in_mid_load_lose_and_double_nothing",),
    ),
    Fault("the server is stopped by SIGSTOP", _NO_SERVER, ("test_d6_a_signal_to_a_halted_server_ends_in_time",)),
    Fault("limits of the role on time", _NO_SERVER, ("test_d1_limits_on_time_break_nothing_for_good",)),
    Fault(
        "no connection is to be had",
        _NO_SERVER,
        (
            "test_d1_workers_that_get_no_connection_wait_and_go_on",
            "test_d1_while_others_have_all_connections_of_the_server_everybody_waits_and_goes_on",
        ),
    ),
    Fault("a pool of one connection", "there is one writer at a time", ("test_a_pool_of_one_is_enough",)),
    Fault(
        "PgBouncer is killed",
        _NO_SERVER,
        ("test_d1_a_pooler_that_is_killed_and_started_again_in_mid_load_loses_and_doubles_nothing",),
    ),
    Fault(
        "the schema is migrated under old workers",
        "a file is migrated when it is opened",
        (
            "test_migrations_in_mid_load_disturb_nobody",
            "test_l8_d1_a_server_restarts_under_the_next_release_while_old_workers_run_and_nothing_is_lost",
        ),
    ),
    Fault(
        "the clock steps by an hour: the worker's; the server's",
        ("test_w7_a_clock_that_steps_turns_no_stream_back_and_loses_no_wake",),
        ("test_w6_w7_a_clock_of_the_server_that_steps_turns_no_stream_back_and_moves_no_deadline",),
    ),
    Fault(
        "the clocks of processes are two hours apart",
        ("test_w7_two_processes_an_hour_apart_share_a_file_without_a_timeout_that_the_log_calls_early",),
        ("test_w6_w7_the_clocks_of_nodes_do_not_matter",),
    ),
    Fault(
        "signals within 10 ms of the deadline, from three processes",
        ("test_w7_signals_at_the_deadline_agree_with_the_log_whoever_comes_first",),
        ("test_w7_signals_at_the_deadline_agree_with_the_log_whoever_comes_first",),
    ),
    Fault(
        "three zombies of a job, in whatever order",
        ("test_w13_of_four_executions_only_the_newest_writes_in_whatever_order_they_go_on",),
        ("test_w13_of_four_executions_only_the_newest_writes_in_whatever_order_they_go_on",),
    ),
    Fault(
        "calls are cancelled at any suspension",
        (
            "test_d2_a_signal_that_is_cancelled_is_there_or_not_and_nothing_is_left",
            "test_d8_storing_and_relaying_that_are_cancelled_keep_all_or_nothing",
            "test_closing_that_is_cancelled_can_be_done_again_and_loses_nothing",
        ),
        (
            "test_d2_a_signal_that_is_cancelled_is_there_or_not_and_nothing_is_left",
            "test_d8_storing_that_is_cancelled_stores_a_signal_once_or_not_at_all",
            "test_d8_a_relay_that_is_cancelled_relays_all_or_nothing_and_once",
            "test_closing_a_ledger_that_is_cancelled_ends_every_call_and_loses_nothing",
            "test_stopping_that_is_cancelled_can_be_done_again_and_loses_nothing",
        ),
    ),
    Fault(
        "awaits are cancelled at any suspension",
        (
            "test_w11_a_signal_is_had_once_wherever_its_await_is_cancelled",
            "test_w11_a_timeout_is_had_once_wherever_its_await_is_cancelled",
        ),
        ("test_w11_an_outcome_is_had_once_wherever_its_await_is_cancelled",),
    ),
    Fault(
        "damaged and foreign payloads between sound ones",
        ("test_l7_each_damaged_row_reaches_its_await_and_the_next_is_unharmed",),
        ("test_l7_forty_thousand_damaged_rows_are_read_and_named_and_reach_their_awaits",),
    ),
]
