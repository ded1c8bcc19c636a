"""Hypothesis profiles: CI takes its time, a developer's run is short. Failures print what reproduces them."""

import os

from hypothesis import HealthCheck, settings

from tests.effort import share_of

common = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("developer", max_examples=60, stateful_step_count=40, **common)
settings.register_profile("ci", max_examples=share_of(120), stateful_step_count=60, derandomize=False, **common)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
