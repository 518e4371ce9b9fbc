"""How hypothesis runs: the same examples every time, and none fails for being slow on a busy machine.

`--hypothesis-profile=explore` looks for new ones.
"""

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow]

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=_SLOW, database=None)
settings.register_profile("explore", deadline=None, suppress_health_check=_SLOW, max_examples=1000)
settings.load_profile("same")
