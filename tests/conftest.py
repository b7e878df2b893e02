"""Settings for all tests."""

from hypothesis import settings

# The same examples each time, however slow the machine: a red test is a change, never luck.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
