"""Settings of the whole suite."""

from hypothesis import settings

# Machines are shared, and a kernel's first call compiles it: no test fails for being slow.
settings.register_profile("npnet", deadline=None)
settings.load_profile("npnet")
