"""Why the system refused to send: errno, as one of the kinds that are counted.

The kinds and their order are those of the counters; the batch plane counts the same ones in C.
"""

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qlb.routing.counters import SEND_ERROR_KINDS

_KINDS: Final = {
    "would_block": (errno.EAGAIN, errno.EWOULDBLOCK),
    "no_buffers": (errno.ENOBUFS, errno.ENOMEM),
    "refused": (errno.ECONNREFUSED,),
    "too_large": (errno.EMSGSIZE,),
    "unreachable": (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN),
}
_KIND_OF: Final[Mapping[int, int]] = MappingProxyType(
    {number: SEND_ERROR_KINDS.index(kind) for kind, numbers in _KINDS.items() for number in numbers}
)
_OTHER: Final = SEND_ERROR_KINDS.index("other")


def send_error_kind(error: OSError) -> int:
    """Return the index in SEND_ERROR_KINDS of what a call to send has raised."""
    return _KIND_OF.get(error.errno or 0, _OTHER)
