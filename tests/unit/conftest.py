"""Hypothesis for unit tests: enough examples to find things, few enough to be quick on a slow machine."""

from hypothesis import HealthCheck, settings

# No deadline: a busy machine is no failure. A failing example is printed so that it can be kept as a test.
settings.register_profile(
    "unit",
    deadline=None,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")
