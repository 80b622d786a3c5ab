"""The table: a snapshot as flat, versioned, read-only memory for the C core.

compile_table() runs once for each snapshot, off the packet path. The batch plane reads the table in place; the XDP
plane copies its parts into maps. core/table.h has the same layouts, and describes byte order and alignment.
`make generate` writes the constants for C, and checks of the layouts.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final

from qlb.cid.params import MAX_CONFIG_ID, PLAINTEXT, SINGLE_PASS, CidParams
from qlb.dataplane.core.hash_table import Entry, place
from qlb.dataplane.core.key_schedule import SCHEDULE_BYTES, decrypt_schedule, encrypt_schedule
from qlb.routing.backends import Backend
from qlb.routing.snapshot import Snapshot

MAGIC: Final = 0x54424C51
VERSION: Final = 1
"""Increases with every change of a layout or of a field's meaning."""
CONFIGS: Final = 8
"""Config slots: one for each value of the three config bits; the last is never configured."""
NO_BACKEND: Final = 0xFFFFFFFF
"""The backend index of a free server slot."""

# Flags of a backend.
PRESENT: Final = 1  # it is in the configuration
HEALTHY: Final = 2  # the last probe result
ACCEPTS_NEW: Final = 4  # healthy, active and with a weight above 0

# How to decode the connection IDs of a CID config.
ALGORITHMS: Final = {
    "not_configured": 0,
    "plaintext": 1,
    "single_pass": 2,  # one block
    "three_pass": 3,  # four-pass, and the half that three passes recover contains the server ID
    "four_pass": 4,  # four-pass, and the server ID is longer than the nonce
}

_ALIGNMENT: Final = 8
_BLOCK_BYTES: Final = 16


class Layout:
    """A C struct: names and formats of its fields, in order. Padding is a field whose name begins with "unused"."""

    def __init__(self, name: str, fields: dict[str, str]) -> None:
        """Compute the offsets. fields: name → format of the struct module, of standard size without padding."""
        self.name = name
        self.fields = tuple(field for field in fields if not field.startswith("unused"))
        formats = [
            code if field in self.fields else f"{struct.calcsize('=' + code)}x" for field, code in fields.items()
        ]
        self._struct = struct.Struct("=" + "".join(formats))
        self.size_bytes = self._struct.size
        sizes = [struct.calcsize("=" + code) for code in fields.values()]
        self.offsets = {field: sum(sizes[:at]) for at, field in enumerate(fields)}

    def pack(self, **values: int | bytes) -> bytes:
        """Return the struct's octets. Every field needs a value."""
        return self._struct.pack(*(values.pop(field) for field in self.fields))

    def unpack(self, octets: bytes, at: int = 0) -> dict[str, int | bytes]:
        """Return the values of a struct by field. at: offset of its first octet."""
        return dict(zip(self.fields, self._struct.unpack_from(octets, at), strict=True))


HEAD: Final = Layout(
    "qlb_head",
    {
        "magic": "I",
        "version": "I",
        "generation": "Q",
        "size_bytes": "I",
        "configs_at": "I",
        "servers_at": "I",
        "backends_at": "I",
        "ring_at": "I",
        "server_slots": "I",
        "backend_slots": "I",
        "ring_slots": "I",
        "server_seed": "Q",
        "unused": "Q",
        "hash_schedule": f"{SCHEDULE_BYTES}s",
    },
)

CONFIG: Final = Layout(
    "qlb_config",
    {
        "algorithm": "B",
        "server_id_len": "B",
        "nonce_len": "B",
        "length_self_encoded": "B",
        "unused": "4s",
        "server_id_mask": f"{_BLOCK_BYTES}s",
        "left_mask": f"{_BLOCK_BYTES}s",
        "right_mask": f"{_BLOCK_BYTES}s",
        "encrypt_schedule": f"{SCHEDULE_BYTES}s",
        "decrypt_schedule": f"{SCHEDULE_BYTES}s",
    },
)

SERVER: Final = Layout("qlb_server", {"low": "Q", "high": "Q", "index": "I", "unused": "I"})


def compile_table(snapshot: Snapshot) -> bytes:
    """Compile a snapshot into the table that the C core reads.

    It contains the keys in expanded form, so it is a secret. Raises QlbError if the server IDs do not fit into a hash
    table with bounded lookups, which does not happen by chance.
    """
    configs = b"".join(_config(snapshot, config_id) for config_id in range(CONFIGS))
    slots, seed = place(list(_servers(snapshot)))
    free = SERVER.pack(low=0, high=0, index=NO_BACKEND)
    servers = b"".join(free if s is None else SERVER.pack(low=s.low, high=s.high, index=s.value) for s in slots)
    backends = array("I", map(backend_flags, snapshot.backends)).tobytes()
    parts = [bytes(HEAD.size_bytes)]
    offsets = []
    for part in (configs, servers, backends, snapshot.fallback.tobytes()):
        offsets.append(sum(map(len, parts)))
        parts.append(part.ljust(-(-len(part) // _ALIGNMENT) * _ALIGNMENT, b"\0"))
    parts[0] = HEAD.pack(
        magic=MAGIC,
        version=VERSION,
        generation=snapshot.generation,
        size_bytes=sum(map(len, parts)),
        configs_at=offsets[0],
        servers_at=offsets[1],
        backends_at=offsets[2],
        ring_at=offsets[3],
        server_slots=len(slots),
        backend_slots=len(snapshot.backends),
        ring_slots=len(snapshot.fallback),
        server_seed=seed,
        hash_schedule=encrypt_schedule(snapshot.ring.key),
    )
    return b"".join(parts)


def _config(snapshot: Snapshot, config_id: int) -> bytes:
    config = snapshot.configs[config_id]
    if config is None or config_id > MAX_CONFIG_ID:
        return bytes(CONFIG.size_bytes)
    params = config.codec.params
    half_len = (params.plaintext_len + 1) // 2
    odd = params.plaintext_len % 2
    left = b"\xff" * (half_len - odd) + b"\xf0" * odd
    return CONFIG.pack(
        algorithm=_algorithm(params),
        server_id_len=params.server_id_length,
        nonce_len=params.nonce_length,
        length_self_encoded=params.length_self_encoded,
        server_id_mask=b"\xff" * params.server_id_length,
        left_mask=left,
        right_mask=b"\x0f" * odd + b"\xff" * (half_len - odd),
        encrypt_schedule=encrypt_schedule(params.key) if params.key else b"",
        decrypt_schedule=decrypt_schedule(params.key) if params.key else b"",
    )


def _algorithm(params: CidParams) -> int:
    if params.algorithm == PLAINTEXT:
        return ALGORITHMS["plaintext"]
    if params.algorithm == SINGLE_PASS:
        return ALGORITHMS["single_pass"]
    # Three passes recover the left half. It contains the whole server ID unless that is longer than the nonce.
    return ALGORITHMS["three_pass" if params.server_id_length <= params.nonce_length else "four_pass"]


def backend_flags(backend: Backend | None) -> int:
    """Return the flags of a backend; 0 if its index is not in use any more."""
    if backend is None:
        return 0
    return PRESENT | HEALTHY * backend.healthy | ACCEPTS_NEW * backend.accepts_new


def _servers(snapshot: Snapshot) -> Iterator[Entry]:
    for config_id, config in enumerate(snapshot.configs):
        for server_id, index in config.server_ids.items() if config else ():
            length = config.codec.params.server_id_length if config else 0
            if server_id is None or len(server_id) != length:
                continue  # no ID of this config decodes to it
            key = server_id.ljust(_BLOCK_BYTES - 1, b"\0") + bytes((config_id,))
            yield Entry(int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"), index)
