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
_WANT_OF_ROOM: Final = frozenset(map(SEND_ERROR_KINDS.index, ("would_block", "no_buffers")))
_DEAD_SOCKET: Final = frozenset(map(SEND_ERROR_KINDS.index, ("unreachable", "invalid", "other")))
_OTHER: Final = SEND_ERROR_KINDS.index("other")


def send_error_kind(error: OSError) -> int:
    """Return the index in SEND_ERROR_KINDS of an error that a call to send raised."""
    return kind_of_errno(error.errno or 0)


def kind_of_errno(number: int) -> int:
    """Return the index in SEND_ERROR_KINDS of an errno."""
    return _KIND_OF.get(number, _OTHER)


def is_for_want_of_room(kind: int) -> bool:
    """Return whether a send failed because a queue or memory is full: to try again at once would not help."""
    return kind in _WANT_OF_ROOM


def may_need_new_socket(kind: int) -> bool:
    """Return whether a send may have failed because its socket has a source address or a route that is gone."""
    return kind in _DEAD_SOCKET
