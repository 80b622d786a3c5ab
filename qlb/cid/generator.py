"""Generate connection IDs on a server; a nonce is never used twice under one key.

With a key, the nonce is a counter with a random start, and the cipher hides it. Without a key a counter would be
visible, so it passes through a secret permutation of the nonce space first. The result still never repeats, and an
observer cannot relate two nonces. In both cases the generator knows exactly when the space is used up.

Several processes that share a server ID each have a WorkerTag: a few bits of the nonce that identify the process.
A forked child detects the fork and starts at another random nonce.

Any client makes a server use nonces: one for each Initial, one for each Retry. A tagged counter therefore has at least
2**40 nonces, which last 254 days at 50,000 Initials per second. IDs of Retry packets can have a nonce space of their
own. They then take nothing from connections, and connections go on when that space is used up.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Connection ID Entropy"; RFC 9000, section 8.1.2.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.cid.codec import CidCodec, RandomBytes, first_octet
from qlb.cid.feistel import Feistel
from qlb.cid.octets import octets
from qlb.cid.params import KEY_BYTES, MAX_CID_BYTES, RESERVED_CONFIG_ID, CidParams, key_octets
from qlb.errors import CidError, NonceExhausted

OnExhaustion = Literal["raise", "reserved"]

_Permute = Callable[[bytes], bytes]

_RESERVED_MIN_CID_BYTES: Final = 8
"""An ID under the reserved config ID 0b111 needs 7 octets of entropy. Spec: section "Configuration Failover"."""
MIN_TAGGED_BITS: Final = 40
"""Bits of the nonce that a worker tag must leave to the counter."""
_RETRY_SHARE: Final = 16
"""reserve_for_retry() reserves one nonce in 16 for Retry packets."""
_PERMUTATION_ROUNDS: Final = 4
"""Runs of the four-pass network over a plaintext nonce: 16 rounds in all, well beyond any attack on four rounds."""


@dataclass(frozen=True, slots=True)
class WorkerTag:
    """The number of one process among those that share a server ID.

    index: 0 to 2**bits - 1, different in each process. bits: 1 to 16 bits of the nonce, equal in all processes. At
    least 40 bits of the nonce must remain: a tag of 8 bits needs a nonce_length of 6 octets, a tag of 16 bits needs 7.
    A forked child needs an index of its own and a new generator.

    The tag makes nonces unique, and no more: a balancer forwards to an address and a port, and if several processes
    receive from one port, the kernel selects one by the sender's address. After a change of address that is another
    process, and the connection is lost. So either the server passes such packets to the process that has the
    connection, or each process is a backend with a port and a server ID of its own (docs/servers.md, "Several
    workers").
    """

    index: int
    bits: int


class CidGenerator:
    """A source of connection IDs for one server under one CID config."""

    __slots__ = (
        "_codec", "_counter", "_issued", "_on_exhaustion", "_permute", "_pid", "_random_bytes", "_retry_counter",
        "_retry_space", "_space", "_start", "_tag", "_whole_space", "params", "server_id",
    )  # fmt: skip

    def __init__(
        self,
        params: CidParams,
        server_id: bytes | str,
        *,
        worker: WorkerTag | None = None,
        nonce_key: bytes | str | None = None,
        on_exhaustion: OnExhaustion = "raise",
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        """Start at a random nonce.

        server_id: params.server_id_length octets (1 to 15), as bytes or as hexadecimal text.
        worker: the part of the nonce space that belongs to this process, if several processes issue for one server ID.
        None: the whole space, which is 256**params.nonce_length nonces.
        nonce_key: 16 secret octets, or their hexadecimal text, that permute plaintext nonces; the default is random.
        Processes that share a plaintext server ID need the same key, or two of them could use the same nonce.
        on_exhaustion: ``raise`` NonceExhausted, or issue IDs under the ``reserved`` config ID 0b111.
        random_bytes: returns a number of random octets.
        Raises CidError if an argument is out of its range, or if a worker tag leaves fewer than 2**40 nonces.
        Spec: draft-ietf-quic-load-balancers, sections "Server ID Allocation" and "Connection ID Entropy".
        """
        server_id = octets("server_id", server_id)
        if len(server_id) != params.server_id_length:
            raise CidError(f"the server ID has {len(server_id)} octets, not {params.server_id_length}")
        if on_exhaustion not in ("raise", "reserved"):
            raise CidError(f"on_exhaustion must be 'raise' or 'reserved', not {on_exhaustion!r}")
        self.params = params
        self.server_id = server_id
        self._codec = CidCodec(params, random_bytes=random_bytes)
        self._random_bytes = random_bytes
        self._on_exhaustion = on_exhaustion
        counter_bits = 8 * params.nonce_length - _tag_bits(worker, params)
        self._whole_space = self._space = 1 << counter_bits
        self._retry_space = 0
        self._tag = worker.index << counter_bits if worker else 0
        self._permute = _permutation(params, worker, nonce_key, random_bytes)
        self._restart()

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        config_id: int | None = None,
        server_id_index: int = 0,
        worker: WorkerTag | None = None,
        nonce_key: bytes | str | None = None,
        on_exhaustion: OnExhaustion = "raise",
    ) -> "CidGenerator":
        """Return a generator with the parameters in a file that ``qlb server-config`` has printed.

        path: YAML, JSON, or the draft's YANG model as JSON. It is read once: RotatingCidGenerator.from_file() follows
        its changes. config_id: of the CID config to issue from; the default is the last one in the file, because a
        rotation appends. server_id_index: the server ID to use if the backend has several, one for each of its
        processes; 0 is the first. worker, nonce_key, on_exhaustion: as in the constructor.
        Raises CidError, which names the file and the key, if the file cannot be read or is wrong.
        """
        from qlb.cid.files import load  # the only module of this floor that reads files

        params, server_id = load(path, config_id, server_id_index)
        return cls(params, server_id, worker=worker, nonce_key=nonce_key, on_exhaustion=on_exhaustion)

    @property
    def used(self) -> int:
        """The number of nonces that generate() has used since the generator was created or the process was forked."""
        return min(self._issued, self._space)

    @property
    def left(self) -> int:
        """The number of unused nonces, without those for Retry packets. Monitor it, and rotate before it reaches 0."""
        return self._space - self.used

    def generate(self) -> bytes:
        """Return a new connection ID of params.cid_length octets, first octet included.

        Raises NonceExhausted after the last nonce. With on_exhaustion ``reserved`` it returns an ID under the reserved
        config ID instead, which has at least 8 octets.
        Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Configuration Failover".
        """
        if os.getpid() != self._pid:
            self._restart()
        issued = next(self._counter)  # one C call: two threads never draw the same number
        if issued >= self._space:
            return self._exhausted()
        self._issued = issued + 1
        return self._routable(self._start + issued)

    def reserve_for_retry(self) -> None:
        """Reserve a sixteenth of the nonces for IDs of Retry packets; generate() never uses those.

        Call it before other threads use this generator. If fewer nonces are left, it reserves none. A second call
        changes nothing.
        """
        share = self._whole_space // _RETRY_SHARE
        if not self._retry_space and self._issued <= self._whole_space - share:
            self._retry_space = share
            self._space = self._whole_space - share

    def generate_retry(self) -> bytes:
        """Return a new, routable ID of cid_length octets for the Source Connection ID of a Retry packet.

        Any client can cause a Retry, so these IDs have nonces of their own: see ``reserve_for_retry``. If those are
        used up, or none were reserved, the ID is unroutable: it is under the reserved config ID and has at least 8
        octets. A balancer then forwards the client's next Initial by its 4-tuple, as it did the first. Never raises.
        Spec: RFC 9000, section 8.1.2; draft-ietf-quic-load-balancers, section "Configuration Failover".
        """
        if os.getpid() != self._pid:
            self._restart()
        issued = next(self._retry_counter)
        if issued >= self._retry_space:
            return self._unroutable()
        return self._routable(self._start - 1 - issued)

    def _routable(self, number: int) -> bytes:
        """Return the ID for one number of this counter. After its last number the counter continues at 0."""
        nonce = (self._tag | number % self._whole_space).to_bytes(self.params.nonce_length, "big")
        return self._codec.encode(self.server_id, self._permute(nonce))

    def _restart(self) -> None:
        """Start at a random nonce: a forked child must not use the numbers that its parent will use."""
        self._pid = os.getpid()
        self._start = int.from_bytes(self._random_bytes(self.params.nonce_length), "big")
        self._counter = itertools.count()
        self._retry_counter = itertools.count()
        self._issued = 0

    def _exhausted(self) -> bytes:
        if self._on_exhaustion == "raise":
            raise NonceExhausted(
                f"all {self._space} nonces of config ID {self.params.config_id} are used: "
                "rotate to another config ID with a new key"
            )
        return self._unroutable()

    def _unroutable(self) -> bytes:
        return reserved_cid(max(self.params.cid_length, _RESERVED_MIN_CID_BYTES), self._random_bytes)


def reserved_cid(cid_length: int, random_bytes: RandomBytes = os.urandom) -> bytes:
    """Return a random, unroutable ID under the reserved config ID 0b111. Its first octet encodes its length.

    cid_length: 8 to 20 octets, first octet included.
    Raises CidError if cid_length is out of this range.
    Spec: draft-ietf-quic-load-balancers, section "Configuration Failover".
    """
    if not _RESERVED_MIN_CID_BYTES <= cid_length <= MAX_CID_BYTES:
        raise CidError(f"an ID under the reserved config ID has 8 to 20 octets, not {cid_length}")
    return bytes((first_octet(RESERVED_CONFIG_ID, cid_length, True, random_bytes),)) + random_bytes(cid_length - 1)


def _tag_bits(worker: WorkerTag | None, params: CidParams) -> int:
    """Return the bits of the nonce that identify the process. Raises CidError if they leave too few to the counter."""
    if worker is None:
        return 0
    if not 1 <= worker.bits <= 16 or not 0 <= worker.index < 1 << worker.bits:
        raise CidError(f"a worker tag has 1 to 16 bits and an index that fits in them, not {worker}")
    if 8 * params.nonce_length - worker.bits < MIN_TAGGED_BITS:
        raise CidError(
            f"a worker tag of {worker.bits} bits leaves 2^{8 * params.nonce_length - worker.bits} nonces at "
            f"nonce_length {params.nonce_length}, which a flood of Initials uses up; 2^{MIN_TAGGED_BITS} must remain: "
            f"set nonce_length to {-(-(MIN_TAGGED_BITS + worker.bits) // 8)}, or use fewer bits"
        )
    return worker.bits


def _permutation(
    params: CidParams, worker: WorkerTag | None, nonce_key: bytes | str | None, random_bytes: RandomBytes
) -> _Permute:
    """Return the permutation of nonces: the identity if a cipher hides them, otherwise one under a secret key."""
    if params.key is not None:
        return bytes
    if nonce_key is None:
        if worker is not None:
            raise CidError("processes that share a plaintext server ID need the same nonce_key of 16 octets")
        nonce_key = random_bytes(KEY_BYTES)
    encryptor = Cipher(algorithms.AES(key_octets("nonce_key", nonce_key)), modes.ECB()).encryptor()
    feistel = Feistel(params.nonce_length, encryptor.update)

    def permute(nonce: bytes) -> bytes:
        for _ in range(_PERMUTATION_ROUNDS):
            nonce = feistel.encrypt(nonce)
        return nonce

    return permute
