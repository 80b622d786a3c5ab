"""What the system allows a worker to open."""

import resource
from typing import Final

_SPARE_DESCRIPTORS: Final = 64


def affordable_sessions(wanted: int) -> int:
    """Return how many of so many sessions the descriptor limit allows; raises the limit as far as it may first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_DESCRIPTORS
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - _SPARE_DESCRIPTORS), 1)
