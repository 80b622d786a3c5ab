"""Make connection IDs on a server: never the same nonce twice under one key.

Encrypted configurations count up from a random start; the cipher hides the counter. Plaintext
configurations must not show one, so the counter goes through a secret permutation of the nonce space
first: still never the same nonce twice, and no relation to be seen. Both therefore know exactly when
the space is used up.

Several processes that share a server ID each take a WorkerTag: a few bits of the nonce that say which
process made it. A forked child notices that it is one and starts elsewhere.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Connection ID Entropy".
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.cid.codec import CidCodec, RandomBytes, first_octet
from qlb.cid.feistel import Feistel
from qlb.cid.params import KEY_BYTES, RESERVED_CONFIG_ID, CidParams
from qlb.errors import CidError, NonceExhausted

OnExhaustion = Literal["raise", "reserved"]

_Permute = Callable[[bytes], bytes]

_RESERVED_MIN_CID_BYTES: Final = 8
"""An ID under 0b111 needs 7 octets of entropy. Spec: section "Configuration Failover"."""
_PERMUTATION_ROUNDS: Final = 4
"""Times the four-pass network runs over a plaintext nonce: 16 rounds, well past any four-round attack."""


@dataclass(frozen=True, slots=True)
class WorkerTag:
    """Which of the processes that share a server ID this one is.

    index: 0 to 2**bits - 1. bits: how much of the nonce it takes, 1 to 16, the same in all of them. A child
    that a process forks must be given an index of its own and a new generator.
    """

    index: int
    bits: int


class CidGenerator:
    """Issue connection IDs for one server under one configuration."""

    __slots__ = (
        "_codec", "_counter", "_issued", "_on_exhaustion", "_permute", "_pid", "_random_bytes", "_space", "_start",
        "_tag", "params", "server_id",
    )  # fmt: skip

    def __init__(
        self,
        params: CidParams,
        server_id: bytes,
        *,
        worker: WorkerTag | None = None,
        nonce_key: bytes | None = None,
        on_exhaustion: OnExhaustion = "raise",
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        """Start at a random nonce.

        server_id: as many octets as the parameters say.
        worker: this process's share of the nonce space, where several issue for one server ID.
        nonce_key: 16 secret octets that permute plaintext nonces; the default is random. Processes that
        share a plaintext server ID must be given one key, or their nonces could meet.
        on_exhaustion: ``raise`` NonceExhausted, or fall over to IDs under the ``reserved`` config 0b111.
        Raises CidError where an argument is out of its range.
        """
        if len(server_id) != params.server_id_length:
            raise CidError(f"the server ID has {len(server_id)} octets, not {params.server_id_length}")
        if on_exhaustion not in ("raise", "reserved"):
            raise CidError(f"on_exhaustion must be 'raise' or 'reserved', not {on_exhaustion!r}")
        self.params = params
        self.server_id = bytes(server_id)
        self._codec = CidCodec(params, random_bytes=random_bytes)
        self._random_bytes = random_bytes
        self._on_exhaustion = on_exhaustion
        tag_bits = _tag_bits(worker)
        counter_bits = 8 * params.nonce_length - tag_bits
        self._space = 1 << counter_bits
        self._tag = worker.index << counter_bits if worker else 0
        self._permute = _permutation(params, worker, nonce_key, random_bytes)
        self._restart()

    @property
    def used(self) -> int:
        """Nonces that this generator has used since it began, or since the process was forked."""
        return min(self._issued, self._space)

    @property
    def left(self) -> int:
        """Nonces that are left before the space is used up: export it, and rotate in time."""
        return self._space - self.used

    def generate(self) -> bytes:
        """Return a connection ID of cid_length octets that was never issued before.

        Raises NonceExhausted after the last nonce, unless the generator falls over to the reserved config.
        """
        if os.getpid() != self._pid:
            self._restart()
        issued = next(self._counter)  # one C call: two threads never draw the same number
        if issued >= self._space:
            return self._exhausted()
        self._issued = issued + 1
        number = self._tag | (self._start + issued) % self._space
        nonce = number.to_bytes(self.params.nonce_length, "big")
        return self._codec.encode(self.server_id, self._permute(nonce))

    def _restart(self) -> None:
        """Begin at a random place; a forked child must not go on where its parent will."""
        self._pid = os.getpid()
        self._start = int.from_bytes(self._random_bytes(self.params.nonce_length), "big")
        self._counter = itertools.count()
        self._issued = 0

    def _exhausted(self) -> bytes:
        if self._on_exhaustion == "raise":
            raise NonceExhausted(
                f"all {self._space} nonces of config ID {self.params.config_id} are used: "
                "issue a new configuration with a new key"
            )
        return reserved_cid(max(self.params.cid_length, _RESERVED_MIN_CID_BYTES), self._random_bytes)


def reserved_cid(cid_length: int, random_bytes: RandomBytes = os.urandom) -> bytes:
    """Return an ID under the reserved config 0b111: random, unroutable, its length always self-encoded.

    cid_length: 8 to 20 octets, first octet included.
    Raises CidError where it is shorter or longer.
    Spec: draft-ietf-quic-load-balancers, section "Configuration Failover".
    """
    if not _RESERVED_MIN_CID_BYTES <= cid_length <= 20:
        raise CidError(f"an ID under the reserved config has 8 to 20 octets, not {cid_length}")
    return bytes((first_octet(RESERVED_CONFIG_ID, cid_length, True, random_bytes),)) + random_bytes(cid_length - 1)


def _tag_bits(worker: WorkerTag | None) -> int:
    if worker is None:
        return 0
    if not 1 <= worker.bits <= 16 or not 0 <= worker.index < 1 << worker.bits:
        raise CidError(f"a worker tag has 1 to 16 bits and an index that fits in them, not {worker}")
    return worker.bits


def _permutation(
    params: CidParams, worker: WorkerTag | None, nonce_key: bytes | None, random_bytes: RandomBytes
) -> _Permute:
    if params.key is not None:
        return bytes
    if nonce_key is None:
        if worker is not None:
            raise CidError("plaintext processes that share a server ID need one nonce_key of 16 octets among them")
        nonce_key = random_bytes(KEY_BYTES)
    if len(nonce_key) != KEY_BYTES:
        raise CidError(f"nonce_key must be {KEY_BYTES} octets")
    encryptor = Cipher(algorithms.AES(nonce_key), modes.ECB()).encryptor()
    feistel = Feistel(params.nonce_length, encryptor.update)

    def permute(nonce: bytes) -> bytes:
        for _ in range(_PERMUTATION_ROUNDS):
            nonce = feistel.encrypt(nonce)
        return nonce

    return permute
