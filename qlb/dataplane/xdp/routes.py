"""What the system knows of the ways to backends, and what it must be asked or told so that the program can use it."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from qlb.dataplane.addresses import address_of, family_of
from qlb.errors import PlaneUnavailable
from qlb.routing.backends import Endpoint
from qlb.routing.maglev import canonical_host

_FORWARDING: Final = "/proc/sys/net/{family}/conf/{interface}/forwarding"
_NOTHING: Final = b"\0"
"""An octet that no QUIC server answers."""


def check_forwarding(interface: str, families: frozenset[int]) -> None:
    """Raise PlaneUnavailable where the kernel would look up no routes for what comes in at an interface.

    families: 4 and 6, of the backends' addresses.
    """
    for family in sorted(families):
        name = _FORWARDING.format(family=f"ipv{family}", interface=interface)
        try:
            allowed = Path(name).read_text(encoding="ascii").strip() != "0"
        except OSError:
            continue  # this kernel knows the family not at all, and will say so
        if not allowed:
            setting = name.removeprefix("/proc/sys/").replace("/", ".")
            raise PlaneUnavailable(
                f"{setting} is 0, so the kernel looks up no route to a backend: sysctl -w {setting}=1"
            )


def source_towards(backend: Endpoint) -> str | None:
    """Return the address of this machine that the system would send from, or None where there is no route."""
    backend = _as_sent(backend)
    with socket.socket(family_of(backend), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address_of(backend))
        except OSError:
            return None
        host: str = sock.getsockname()[0]
        return host


def wake_neighbours(backends: Sequence[Endpoint]) -> None:
    """Have the system look for the next hops' MAC addresses, by an octet to each backend."""
    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        for backend in map(_as_sent, backends):
            family = family_of(backend)
            if family not in sockets:
                sockets[family] = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                sockets[family].setblocking(False)
            with suppress(OSError):
                sockets[family].sendto(_NOTHING, address_of(backend))


def _as_sent(backend: Endpoint) -> Endpoint:
    """Return an endpoint as it is on the wire: an IPv4-mapped address is an IPv4 one."""
    return backend._replace(host=canonical_host(backend.host))
