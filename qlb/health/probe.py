"""What a probe asks of a backend, and what it finds."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, config_id_of
from qlb.cid.params import RESERVED_CONFIG_ID


@dataclass(frozen=True, slots=True)
class Pool:
    """All that decoding a server's connection ID takes.

    codecs: by config ID. owners: (config ID, server ID) → the name of the backend that has it.
    """

    codecs: Mapping[int, CidCodec] = field(default_factory=dict)
    owners: Mapping[tuple[int, bytes], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One backend. alpn, server_name: what a client offers and asks for in the handshake.

    server_ids: config ID → its own server IDs; none for a server that does not speak QUIC-LB. Targets are equal where
    they ask the same of the same server.
    """

    name: str
    endpoint: Endpoint
    server_ids: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool, compare=False)
    alpn: tuple[str, ...] = ()
    server_name: str = ""

    def mismatch(self, cid: bytes) -> str:
        """Say why packets with a connection ID of this server's would not come back to it; "" where they do.

        cid: as the server issues it, 0 to 20 octets, first octet included.
        """
        shown, expected = cid.hex() or "(empty)", self._expected()
        if not cid:
            return f"it uses no connection ID; expected one with server ID {expected}"
        config_id = config_id_of(cid)
        codec = self.pool.codecs.get(config_id)
        if config_id == RESERVED_CONFIG_ID:
            return f"its connection ID {shown} is of the reserved config 7: the server has no configuration"
        if codec is None:
            return f"its connection ID {shown} carries config ID {config_id}, which is not configured here"
        server_id = codec.decode(cid)
        if server_id is None:
            return f"its connection ID {shown} is too short for config {config_id}: {len(cid)} octets"
        params = codec.params
        if params.length_self_encoded and (cid[0] & 0x1F) + 1 != len(cid):
            return f"its connection ID {shown} has {len(cid)} octets and encodes {(cid[0] & 0x1F) + 1}"
        if server_id in self.server_ids.get(config_id, ()):
            return ""
        owner = self.pool.owners.get((config_id, server_id))
        whose = f"{owner}'s" if owner is not None else "no backend's (has the server another key?)"
        return (
            f"its connection ID {shown} decodes under config {config_id} to server ID {server_id.hex()}, {whose}; "
            f"expected {expected}"
        )

    def _expected(self) -> str:
        ids = (f"{one.hex()} (config {number})" for number, own in self.server_ids.items() for one in own)
        return " or ".join(ids)


class ProbeResult(NamedTuple):
    """What one probe found.

    detail: one sentence for people. final: nothing that happens can change this, so do not ask again.
    doubtful: it may be chance (a packet can be lost), so it counts only in a row with others.
    reached: the backend has answered, or its host has: whatever is wrong is not this node's network.
    finding: the backend answers and is set up wrongly; what was expected and what was seen. It decides at once.
    refused: its host has answered that nothing listens there (ECONNREFUSED).
    silent: nothing came back, which proves little of servers that never answer this kind of probe.
    error: the name of this node's own error that ended the probe. void: no result; the verdict stays as it is.
    """

    ok: bool
    detail: str
    final: bool = False
    doubtful: bool = False
    reached: bool = False
    finding: str = ""
    refused: bool = False
    silent: bool = False
    error: str = ""
    void: bool = False


Probe = Callable[[Target, float], Awaitable[ProbeResult]]
"""Ask a backend once: (target, timeout_s) → result. It ends within timeout_s and leaves nothing open."""
