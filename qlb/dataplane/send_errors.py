"""The causes of refused sends: each errno belongs to one of the counted kinds.

The kinds and their order are those of the counters. The batch plane has the same table in C (batch/counters.h).
"""

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qlb.routing.counters import SEND_ERROR_KINDS

_ENONET: Final = getattr(errno, "ENONET", errno.EHOSTUNREACH)
"""Linux: an ICMP message said that the host is isolated."""
_KINDS: Final = {
    "would_block": (errno.EAGAIN, errno.EWOULDBLOCK),
    "no_buffers": (errno.ENOBUFS, errno.ENOMEM),
    "refused": (errno.ECONNREFUSED,),
    "too_large": (errno.EMSGSIZE,),
    "unreachable": (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, _ENONET),
    "not_permitted": (errno.EPERM, errno.EACCES),
    "invalid": (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO),
}
_KIND_OF: Final[Mapping[int, int]] = MappingProxyType(
    {number: SEND_ERROR_KINDS.index(kind) for kind, numbers in _KINDS.items() for number in numbers}
)
_OTHER: Final = SEND_ERROR_KINDS.index("other")


def send_error_kind(error: OSError) -> int:
    """Return the index in SEND_ERROR_KINDS of an error that a call to send raised."""
    return _KIND_OF.get(error.errno or 0, _OTHER)
