"""The outcomes of packets: small integers with names, one for each way that a packet can be handled.

The router returns an outcome with a backend index, and a plane counts it. The outcome of a forwarded packet names the
draft's forwarding step that routed it and, if its ID was unroutable, the reason. Received packets = the sum of all
outcomes.

Spec: draft-ietf-quic-load-balancers, sections "Definition" (of unroutable IDs) and "Load Balancer Forwarding".
"""

from typing import Final, NamedTuple

CONFIG_IDS: Final = 7
"""The number of config IDs, 0 to 6. Outcome n below 7 means "routed by its ID under the CID config n"."""

NO_CONFIG: Final = 0
RESERVED_CONFIG: Final = 1
TOO_SHORT: Final = 2
LENGTH_MISMATCH: Final = 3
UNKNOWN_SERVER_ID: Final = 4
REASONS: Final = ("no_config", "reserved_config", "too_short", "length_mismatch", "unknown_server_id")
"""Reasons why a connection ID is unroutable, indexed by the integers above."""

BY_SOURCE_ID: Final = 0
BY_DESTINATION_ID: Final = 1
BY_FOUR_TUPLE: Final = 2
BY_FALLBACK: Final = 3
STEPS: Final = ("source_id", "destination_id", "four_tuple", "fallback")
"""Forwarding steps 2 to 5, for packets with unroutable IDs, indexed by the integers above."""

ROUTES: Final = ("cid", "flow", "fallback")
"""The metric label ``route``: step 1; steps 2 to 4; step 5."""

_DROPS: Final = (
    "empty",  # a datagram of 0 octets
    "truncated",  # a long header that ends before its connection IDs do
    "version_negotiation",  # only servers send version 0, and an answer to it could cause a loop
    "no_backend",  # unroutable, and no backend accepts new connections
    "send_failed",  # decided, but the operating system refused to send the datagram
    "no_session",  # proxy mode: no socket for a new session could be opened
    "worker_died",  # received by a worker that died before it counted an outcome
    "fragment",  # direct return: the first fragment of a datagram; QUIC forbids fragments, and only the first has ports
    "hop_limit",  # the hop limit (TTL) is used up, as in a loop
    "too_big",  # direct return: with its encapsulation, longer than the path to the backend allows
    "no_route",  # direct return: the kernel has no route to the backend, or forwarding is off on this interface
    "no_neighbour",  # direct return: the MAC address of the next hop is unknown
    "bad_source",  # an impossible source: an unspecified address, port 0, or an address of this service
    "overload",  # a new session while packets arrive faster than the worker opens sessions
)


class Outcome(NamedTuple):
    """The meaning of one outcome.

    route: one of ROUTES, or ``drop``. reason: why the ID was unroutable or the packet was dropped; otherwise empty.
    config_id: of the CID config that decoded the ID; otherwise -1.
    """

    name: str
    route: str
    reason: str = ""
    config_id: int = -1


def unroutable(step: int, reason: int) -> int:
    """Return the outcome of a forwarded packet with an unroutable ID. step: index in STEPS. reason: in REASONS."""
    return CONFIG_IDS + step * len(REASONS) + reason


def _table() -> tuple[Outcome, ...]:
    routable = [Outcome(f"cid_config_{n}", "cid", config_id=n) for n in range(CONFIG_IDS)]
    forwarded = [
        Outcome(f"{step}_{reason}", "fallback" if step == "fallback" else "flow", reason)
        for step in STEPS
        for reason in REASONS
    ]
    return (*routable, *forwarded, *(Outcome(f"drop_{reason}", "drop", reason) for reason in _DROPS))


OUTCOMES: Final = _table()
"""The meaning of every outcome, indexed by its integer."""

ROUTE_OF: Final = tuple(ROUTES.index(o.route) if o.route in ROUTES else -1 for o in OUTCOMES)
"""For every outcome its index in ROUTES, or -1 for a drop."""


def _drop(reason: str) -> int:
    return CONFIG_IDS + len(STEPS) * len(REASONS) + _DROPS.index(reason)


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
