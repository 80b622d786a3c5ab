"""The kind of a send error, by errno."""

import errno

import pytest

from qlb.dataplane.portable.send_errors import send_error_kind
from qlb.routing.counters import SEND_ERROR_KINDS


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EAGAIN, "would_block"),
        (errno.EWOULDBLOCK, "would_block"),
        (errno.ENOBUFS, "no_buffers"),
        (errno.ENOMEM, "no_buffers"),
        (errno.ECONNREFUSED, "refused"),
        (errno.EMSGSIZE, "too_large"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETDOWN, "unreachable"),
        (errno.EHOSTDOWN, "unreachable"),
        (errno.EPERM, "not_permitted"),
        (errno.EACCES, "not_permitted"),
        (errno.EINVAL, "invalid"),
        (errno.EADDRNOTAVAIL, "invalid"),
        (errno.ENODEV, "invalid"),
        (errno.EIO, "other"),
        (None, "other"),
    ],
)
def test_each_errno_has_a_kind(number: int | None, kind: str) -> None:
    """Each errno that an operator can act on has its own kind; all others are "other"."""
    error = OSError(number, "") if number else OSError("without a number")
    assert SEND_ERROR_KINDS[send_error_kind(error)] == kind
