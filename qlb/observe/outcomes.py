"""The outcomes of packets in groups, with a sentence for each, for readers who do not know their names.

``/status`` contains them. The page, ``qlb status`` and ``qlb top`` show that list and have no texts of their own.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from qlb.routing.outcomes import OUTCOMES, Outcome

GROUPS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "cid": ("by ID", "The connection ID decoded to a server ID, and the packet went to that backend."),
        "fallback": (
            "new connection",
            "The ID is unroutable and no table knew the flow, so the hash of the client's 4-tuple chose the backend. "
            "The first packets of every client are like that.",
        ),
        "flow": ("known flow", "The ID is unroutable, and the packet went where its flow had gone before."),
        "drop": ("dropped", "The packet was not forwarded."),
    }
)
"""Route of an outcome → name of its group, and a sentence."""

_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no_config": "The ID has a config ID that is not configured here, as random IDs of new clients often have.",
        "reserved_config": "The ID has the reserved config ID 7: its server had no CID config.",
        "too_short": "The ID is shorter than its CID config requires.",
        "length_mismatch": "The ID has another length than it encodes.",
        "unknown_server_id": "The ID decodes to a server ID that no backend has, as random IDs of new clients do.",
    }
)
_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "source_id": "A table knew its source ID.",
        "destination_id": "A table knew its destination ID.",
        "four_tuple": "A table knew its 4-tuple.",
        "fallback": "The hash of its 4-tuple chose the backend.",
    }
)
_DROPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "empty": "The datagram was empty.",
        "truncated": "A long header ended before its connection IDs did.",
        "version_negotiation": "It had version 0, which only servers send.",
        "no_backend": "It was unroutable, and no backend takes new connections.",
        "send_failed": "The system did not accept it for sending.",
        "no_session": "It needed a new session, for which there was no descriptor, memory or local port.",
        "worker_died": "A worker had received it and was killed.",
        "fragment": "It was a fragment.",
        "hop_limit": "Its hop limit was used up.",
        "too_big": "It was too long for the path to its backend.",
        "no_route": "There was no route to its backend.",
        "no_neighbour": "The MAC address of the next hop is not known.",
        "bad_source": "It came from an address that no client has.",
        "overload": "It would have opened a session while packets arrived faster than the worker can open sessions.",
    }
)


def sentence(outcome: Outcome) -> str:
    """Return the meaning of one outcome."""
    if outcome.route == "cid":
        return f"The ID decoded under CID config {outcome.config_id}."
    if outcome.route == "drop":
        return _DROPS[outcome.reason]
    step = outcome.name.removesuffix(f"_{outcome.reason}")
    return f"{_STEPS[step]} {_REASONS[outcome.reason]}"


def grouped(packets: Mapping[str, int]) -> list[dict[str, object]]:
    """Return every group with its packets, and below it the outcomes that have packets. packets: by outcome."""
    groups = []
    for route, (name, text) in GROUPS.items():
        members = [one for one in OUTCOMES if one.route == route and packets.get(one.name, 0)]
        rows = [{"name": one.name, "packets": packets[one.name], "text": sentence(one)} for one in members]
        total = sum(packets[one.name] for one in members)
        groups.append({"name": name, "text": text, "packets": total, "outcomes": rows})
    return groups
