"""The input and the result of a probe."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams, config_id_of
from qlb.cid.params import RESERVED_CONFIG_ID


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that decoding a server's connection ID requires.

    codecs: by config ID. owners: (config ID, server ID) → the name of the backend that has this server ID.
    """

    codecs: Mapping[int, CidCodec] = field(default_factory=dict)
    owners: Mapping[tuple[int, bytes], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One backend as a probe sees it. alpn: protocols that the probe offers. server_name: host name for TLS SNI.

    server_ids: config ID → the backend's own server IDs; empty for a server without QUIC-LB. Two targets are equal if
    they ask the same of the same server.
    """

    name: str
    endpoint: Endpoint
    server_ids: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool, compare=False)
    alpn: tuple[str, ...] = ()
    server_name: str = ""

    def mismatch(self, cid: bytes) -> str:
        """Return why packets with this connection ID would not reach the backend; "" if they would.

        cid: as the server issued it, 0 to 20 octets, with the first octet.
        """
        shown, expected = cid.hex() or "(empty)", self._expected()
        if not cid:
            return f"it uses no connection ID; expected one with server ID {expected}"
        config_id = config_id_of(cid)
        codec = self.pool.codecs.get(config_id)
        if config_id == RESERVED_CONFIG_ID:
            return f"its connection ID {shown} is of the reserved config 7: the server has no CID config"
        if codec is None:
            text = f"its connection ID {shown} carries config ID {config_id}, which is not configured here"
            lengths = sorted({one.params.cid_length for one in self.pool.codecs.values()})
            if len(cid) in lengths:
                return text
            expected_lengths = " or ".join(map(str, lengths))
            return (
                f"{text}, and has {len(cid)} octets instead of {expected_lengths}: does the server issue QUIC-LB IDs?"
            )
        server_id = codec.decode(cid)
        if server_id is None:
            return (
                f"its connection ID {shown} is too short for config {config_id}: {len(cid)} octets instead of "
                f"{codec.params.cid_length} (has the server other lengths?)"
            )
        params = codec.params
        if params.length_self_encoded and (cid[0] & 0x1F) + 1 != len(cid):
            return f"its connection ID {shown} has {len(cid)} octets and encodes {(cid[0] & 0x1F) + 1}"
        if server_id in self.server_ids.get(config_id, ()):
            return ""
        plain = cid[1 : 1 + params.server_id_length]
        if params.key is not None and (reader := self.pool.owners.get((config_id, plain))) is not None:
            return (
                f"its connection ID {shown} contains the server ID {plain.hex()}, {reader}'s, in plaintext: the server "
                f"has no key, but config {config_id} has one here; expected {expected}"
            )
        owner = self.pool.owners.get((config_id, server_id))
        whose = f"{owner}'s" if owner is not None else f"no backend's ({_guess(cid, params)})"
        return (
            f"its connection ID {shown} decodes under config {config_id} to server ID {server_id.hex()}, {whose}; "
            f"expected {expected}"
        )

    def _expected(self) -> str:
        ids = (f"{one.hex()} (config {number})" for number, own in self.server_ids.items() for one in own)
        return " or ".join(ids)


def _guess(cid: bytes, params: CidParams) -> str:
    """Return the likely cause of an ID that decodes to no backend."""
    if len(cid) != params.cid_length:
        return f"it has {len(cid)} octets instead of {params.cid_length}: has the server other lengths?"
    return "has the server another key?" if params.key is not None else "has the server a key? there is none here"


class ProbeResult(NamedTuple):
    """The result of one probe.

    detail: one sentence for operators. final: the result cannot change, so the monitor does not probe again.
    doubtful: it may be chance (a packet can be lost), so it counts only in a row with others.
    reached: the backend or its host has answered, so this node's network works.
    finding: the backend answers with wrong connection IDs: the expected and the actual value. It decides at once.
    refused: the host has answered that no process listens at the address (ECONNREFUSED).
    silent: no answer came. This proves little about a server that never answers this kind of probe.
    error: the name of this node's own error that ended the probe. void: no result; the verdict does not change.
    own_ids: all connection IDs that it has shown are its own. moves: whether it answers packets of one connection from
    other ports; None: not tried.
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
    own_ids: bool = False
    moves: bool | None = None


Probe = Callable[[Target, float], Awaitable[ProbeResult]]
"""Probe a backend once: (target, timeout_s) → result. It ends within timeout_s and closes everything it opened."""
