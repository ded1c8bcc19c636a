"""How much of what can be done without end the tests do: random histories, mostly.

`./run ci` runs the tests on two versions of everything. The second run takes its time; the first one looks for what is
different there, and looks at fewer histories.
"""

import os

VARIABLE = "SIGNAL_LEDGER_EFFORT"
"""A share of what is usual, such as 0.3; 1 unless set."""


def share_of(count):
    """Return how many to try of so many."""
    return max(1, round(count * float(os.environ.get(VARIABLE, "1"))))
