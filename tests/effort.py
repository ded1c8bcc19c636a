"""How much of what can be done without end the tests do: random histories, mostly.

`./run ci` runs the tests on two versions of everything, and has half an hour. The first run looks for what is different
there, and looks at the fewest histories. `./run test` looks at all.
"""

import os

from hypothesis import HealthCheck, settings

VARIABLE = "SIGNAL_LEDGER_EFFORT"
"""A share of what is usual, such as 0.3; 1 unless set."""

ROUNDS_MAX = 5


def share_of(count):
    """Return how many to try of so many."""
    return max(1, round(count * float(os.environ.get(VARIABLE, "1"))))


def play_until_met(play, cases, met):
    """Play rounds of random histories until each case was met: few may all be without one, and then prove little."""
    for _ in range(ROUNDS_MAX):
        play()
        if all(met[case] for case in cases):
            return
    raise AssertionError(f"histories that never met {[case for case in cases if not met[case]]} prove little: {met}")


def histories(count, steps):
    """Return the settings for random histories of so many steps, of which each round plays others."""
    return settings(
        max_examples=share_of(count),
        stateful_step_count=steps,
        deadline=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
