"""Settings of the whole suite."""

import os

from hypothesis import settings

# Machines are shared, and a kernel's first call compiles it: no test fails for being slow. The same
# examples are tried each time, so that what passes here passes elsewhere. NPNET_FUZZ=10000 tries as
# many examples of each property, new ones each time, where the suite tries a hundred.
settings.register_profile("npnet", deadline=None, derandomize=True, database=None)
if examples := os.environ.get("NPNET_FUZZ"):
    settings.register_profile(
        "fuzz", settings.get_profile("npnet"), max_examples=int(examples), derandomize=False
    )
settings.load_profile("fuzz" if examples else "npnet")
