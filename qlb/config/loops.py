"""Backends that are this daemon itself: a packet that is forwarded to one of them comes in again, without end.

Only the ports on which the daemon listens count. A server on this machine with another port is no loop.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from qlb.config.local_addresses import FindLocal
from qlb.routing.backends import Endpoint

_WILDCARDS: Final = ("0.0.0.0", "::")


def find_loops(
    places: Iterable[Endpoint], listen: Sequence[Endpoint], find_local: FindLocal | None = None
) -> Mapping[Endpoint, Endpoint]:
    """Return those of some places that lead back to one of the service's addresses, each with that address.

    A wildcard (0.0.0.0 or ::) takes packets to loopback and to every address of this machine, of its own family
    alone: listeners are IPv6-only.
    find_local: finds this machine's addresses; None where the machine that will run the daemon is another one.
    """
    wildcards = {(":" in one.host, one.port): one for one in listen if one.host in _WILDCARDS}
    named = {one: one for one in listen}
    ports = {one.port for one in listen} - {0}
    found, doubtful = {}, []
    for place in places:
        if place.port not in ports:
            continue
        wildcard = wildcards.get((":" in place.host, place.port))
        if place in named:
            found[place] = named[place]
        elif wildcard is not None and ipaddress.ip_address(place.host).is_loopback:
            found[place] = wildcard
        elif wildcard is not None:
            doubtful.append((place, wildcard))
    local = find_local(place.host for place, _ in doubtful) if find_local and doubtful else frozenset()
    return found | {place: wildcard for place, wildcard in doubtful if place.host in local}
