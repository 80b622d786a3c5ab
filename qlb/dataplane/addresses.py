"""Addresses as socket calls take them: link-local scopes, and whether an address is this machine's.

Nothing here is on the packet path.
"""

import errno
import socket
import sys
from typing import Final

from qlb.routing.backends import Endpoint

_SO_BINDTODEVICE: Final = 25
_LOOPBACK: Final = b"lo\0"


def address_of(endpoint: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address in the form that socket calls take.

    A ``%scope`` becomes the number of its interface, because bind() and connect() ignore it inside the host.
    Raises OSError (ENODEV) if there is no such interface.
    """
    host, _, scope = endpoint.host.partition("%")
    return (host, endpoint.port, 0, interface_index(scope)) if scope else (host, endpoint.port)


def interface_index(scope: str) -> int:
    """Return the number of a network interface. scope: its name or its number. Raises OSError (ENODEV)."""
    try:
        return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no network interface {scope}") from error


def family_of(endpoint: Endpoint) -> socket.AddressFamily:
    """Return the address family of a host."""
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def interface_name(index: int) -> str:
    """Return the name of an interface, or its number if it has gone since."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def is_local(endpoint: Endpoint) -> bool:
    """Return whether packets to an address reach this machine now: an interface has it, or a route makes it local.

    True, too, if that cannot be found out. A tentative IPv6 address (DAD) is not local yet.
    """
    try:
        address = address_of(endpoint._replace(port=0))
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            sock.bind(address)
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV) or _is_routed_locally(endpoint)
    return True


def _is_routed_locally(endpoint: Endpoint) -> bool:
    """Return whether a route of type ``local`` covers an IPv6 address. bind() to it fails all the same, unlike IPv4's.

    A socket that is tied to loopback can reach only what is local, so connect() finds out; it sends nothing.
    """
    if sys.platform != "linux" or ":" not in endpoint.host:
        return False
    try:
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, _LOOPBACK)
            sock.connect(address_of(endpoint))
    except OSError:
        return False
    return True
