"""Every way that a packet can go, as a small integer with a name.

The router returns one of these with a backend index; a plane counts it. A forwarded packet's outcome says
by which of the draft's forwarding steps it was routed and, where its ID was unroutable, why. Received
packets = the sum of all outcomes.

Spec: draft-ietf-quic-load-balancers, sections "Definition" (of unroutable IDs) and "Load Balancer Forwarding".
"""

from typing import Final, NamedTuple

CONFIGS: Final = 7
"""Config IDs 0 to 6: outcome n, for n below 7, is "routed by its ID under config n"."""

NO_CONFIG: Final = 0
RESERVED_CONFIG: Final = 1
TOO_SHORT: Final = 2
LENGTH_MISMATCH: Final = 3
UNKNOWN_SERVER_ID: Final = 4
REASONS: Final = ("no_config", "reserved_config", "too_short", "length_mismatch", "unknown_server_id")
"""Why a connection ID is unroutable, by the integers above."""

BY_SOURCE_ID: Final = 0
BY_DESTINATION_ID: Final = 1
BY_FOUR_TUPLE: Final = 2
BY_FALLBACK: Final = 3
STEPS: Final = ("source_id", "destination_id", "four_tuple", "fallback")
"""Forwarding steps 2 to 5, which an unroutable ID goes through, by the integers above."""

ROUTES: Final = ("cid", "flow", "fallback")
"""The metric label ``route``: step 1; steps 2 to 4; step 5."""

_DROPS: Final = (
    "empty",  # a datagram of 0 octets
    "truncated",  # a long header that ends before its connection IDs do
    "version_negotiation",  # version 0 comes from servers only, and answering it makes loops
    "no_backend",  # unroutable, and no backend takes new connections
    "send_failed",  # decided, but the operating system did not take the datagram
    "no_session",  # proxy mode: no socket for the way back could be opened
    "worker_died",  # received by a worker that was killed before it could say what it did
    "fragment",  # direct return: the first fragment of a datagram; QUIC forbids fragments, and only it has the ports
    "hop_limit",  # its hop limit (TTL) is used up, as in a loop
    "too_big",  # direct return: longer, with what is put around it, than the path to its backend takes
    "no_route",  # direct return: the kernel has no route to the backend, or may not forward on this interface
    "no_neighbour",  # direct return: the next hop's MAC address is not known
    "bad_source",  # a source that no client has: an unspecified address, port 0, or this service's own address
    "overload",  # a new session, while packets arrive faster than the worker opens sessions
)


class Outcome(NamedTuple):
    """What an outcome's integer means.

    route: one of ROUTES, or ``drop``. reason: why the ID was unroutable or the packet dropped, else empty.
    config_id: of the config that decoded the ID, else -1.
    """

    name: str
    route: str
    reason: str = ""
    config_id: int = -1


def unroutable(step: int, reason: int) -> int:
    """Return the outcome of a packet with an unroutable ID that one of STEPS forwarded."""
    return CONFIGS + step * len(REASONS) + reason


def _table() -> tuple[Outcome, ...]:
    routable = [Outcome(f"cid_config_{n}", "cid", config_id=n) for n in range(CONFIGS)]
    forwarded = [
        Outcome(f"{step}_{reason}", "fallback" if step == "fallback" else "flow", reason)
        for step in STEPS
        for reason in REASONS
    ]
    return (*routable, *forwarded, *(Outcome(f"drop_{reason}", "drop", reason) for reason in _DROPS))


OUTCOMES: Final = _table()
"""The table: an outcome's integer → its meaning."""

ROUTE_OF: Final = tuple(ROUTES.index(o.route) if o.route in ROUTES else -1 for o in OUTCOMES)
"""An outcome's integer → index in ROUTES, or -1 for a drop."""


def _drop(reason: str) -> int:
    return CONFIGS + len(STEPS) * len(REASONS) + _DROPS.index(reason)


DROP_EMPTY: Final = _drop("empty")
DROP_TRUNCATED: Final = _drop("truncated")
DROP_VERSION_NEGOTIATION: Final = _drop("version_negotiation")
DROP_NO_BACKEND: Final = _drop("no_backend")
DROP_SEND_FAILED: Final = _drop("send_failed")
DROP_NO_SESSION: Final = _drop("no_session")
DROP_WORKER_DIED: Final = _drop("worker_died")
DROP_FRAGMENT: Final = _drop("fragment")
DROP_HOP_LIMIT: Final = _drop("hop_limit")
DROP_TOO_BIG: Final = _drop("too_big")
DROP_NO_ROUTE: Final = _drop("no_route")
DROP_NO_NEIGHBOUR: Final = _drop("no_neighbour")
DROP_BAD_SOURCE: Final = _drop("bad_source")
DROP_OVERLOAD: Final = _drop("overload")
