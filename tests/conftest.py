"""Settings of the whole suite."""

from hypothesis import settings

# Machines are shared, and a kernel's first call compiles it: no test fails for being slow. The same
# examples are tried each time, so that what passes here passes elsewhere.
settings.register_profile("npnet", deadline=None, derandomize=True, database=None)
settings.load_profile("npnet")
