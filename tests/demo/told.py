"""What the demo tells in the end, on whatever engine it was played."""

import re


def check_told(output):
    """Check that what is told is what should have happened."""
    assert "was killed with SIGKILL (status -9)" in output
    assert "job 1: standing desk, completed" in output
    assert "job 2: espresso machine, cancelled" in output
    assert "job 3: concert tickets, cancelled" in output
    assert "job 4: laptop, completed" in output
    assert "completed by execution 2, attempt 2" in output
    assert "job 5: new office, completed" in output
    assert "workflow trade fair: completed" in output
    for step in ("trade fair", "stand at the fair", "journey to the fair", "party after the fair"):
        assert re.search(rf"^job [6-9]: {step}, completed$", output, re.MULTILINE), step
    assert re.search(r"^verify: ok \(\d+ events, 9 streams\)$", output, re.MULTILINE)
    assert "\x1b" not in output, "colours in a pipe"
