"""Why a call to send failed: from errno to a kind of SEND_ERROR_KINDS, and what may help."""

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qlb.routing.counters import SEND_ERROR_KINDS

_ENONET: Final = getattr(errno, "ENONET", errno.EHOSTUNREACH)
"""Linux: after an ICMP message that reports an isolated host."""
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
    """Return whether a send failed because a queue or the memory is full: an immediate second try does not help."""
    return kind in _WANT_OF_ROOM


def may_need_new_socket(kind: int) -> bool:
    """Return whether a send may have failed because the socket's source address or route no longer exists."""
    return kind in _DEAD_SOCKET
