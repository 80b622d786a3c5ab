"""Make connection IDs on a server: never the same nonce twice under one key.

Encrypted configurations count up from a random start; the cipher hides the counter. Plaintext
configurations must not show one, so the counter goes through a secret permutation of the nonce space
first: still never the same nonce twice, and no relation to be seen. Both therefore know exactly when
the space is used up.

Several processes that share a server ID each take a WorkerTag: a few bits of the nonce that say which
process made it. A forked child notices that it is one and starts elsewhere.

Strangers make a server use nonces: each Initial takes one, and each Retry. So a tagged counter has 2**40 nonces at
least, which 50,000 Initials a second need 254 days for. IDs of Retry packets can have a space of their own, which
takes nothing from connections and whose end refuses nobody.

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
from qlb.cid.params import KEY_BYTES, RESERVED_CONFIG_ID, CidParams
from qlb.errors import CidError, NonceExhausted

OnExhaustion = Literal["raise", "reserved"]

_Permute = Callable[[bytes], bytes]

_RESERVED_MIN_CID_BYTES: Final = 8
"""An ID under 0b111 needs 7 octets of entropy. Spec: section "Configuration Failover"."""
MIN_TAGGED_BITS: Final = 40
"""A counter beside a worker tag has 2**40 nonces or more."""
_RETRY_SHARE: Final = 16
"""One nonce in so many is for Retry packets, once these are set aside."""
_PERMUTATION_ROUNDS: Final = 4
"""Times the four-pass network runs over a plaintext nonce: 16 rounds, well past any four-round attack."""


@dataclass(frozen=True, slots=True)
class WorkerTag:
    """The number of one process among those that share a server ID.

    index: 0 to 2**bits - 1. bits: how much of the nonce it takes, 1 to 16, the same in all of them; 40 bits of the
    nonce must be left, so a tag of 8 bits needs a nonce_length of 6 octets and one of 16 bits needs 7. A child that a
    process forks must be given an index of its own and a new generator.
    """

    index: int
    bits: int


class CidGenerator:
    """Issue connection IDs for one server under one configuration."""

    __slots__ = (
        "_codec", "_counter", "_issued", "_on_exhaustion", "_permute", "_pid", "_random_bytes", "_retry_counter",
        "_retry_space", "_space", "_start", "_tag", "_whole_space", "params", "server_id",
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

        server_id: params.server_id_length octets (1 to 15).
        worker: this process's share of the nonce space, where several issue for one server ID. None: all of it, which
        is 256**params.nonce_length nonces.
        nonce_key: 16 secret octets that permute plaintext nonces; the default is random. Processes that
        share a plaintext server ID must be given one key, or their nonces could meet.
        on_exhaustion: ``raise`` NonceExhausted, or fall over to IDs under the ``reserved`` config 0b111.
        random_bytes: count -> that many random octets.
        Raises CidError where an argument is out of its range, or where a worker tag leaves fewer than 2**40 nonces.
        Spec: draft-ietf-quic-load-balancers, sections "Server ID Allocation" and "Connection ID Entropy".
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
        counter_bits = 8 * params.nonce_length - _tag_bits(worker, params)
        self._whole_space = self._space = 1 << counter_bits
        self._retry_space = 0
        self._tag = worker.index << counter_bits if worker else 0
        self._permute = _permutation(params, worker, nonce_key, random_bytes)
        self._restart()

    @property
    def used(self) -> int:
        """Nonces that generate() has used since the generator began, or since the process was forked."""
        return min(self._issued, self._space)

    @property
    def left(self) -> int:
        """Nonces that are left before the space is used up, Retry packets' excluded: export it, and rotate in time."""
        return self._space - self.used

    def generate(self) -> bytes:
        """Return a connection ID of params.cid_length octets that was never issued before, first octet included.

        Raises NonceExhausted after the last nonce, unless the generator falls over to the reserved config: then the ID
        has 8 octets at least.
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
        """Set a sixteenth of the nonces aside for IDs of Retry packets; generate() never uses those.

        Call it before other threads use this generator. It is too late when fewer nonces are left: then nothing is set
        aside. Calling it again changes nothing.
        """
        share = self._whole_space // _RETRY_SHARE
        if not self._retry_space and self._issued <= self._whole_space - share:
            self._retry_space = share
            self._space = self._whole_space - share

    def generate_retry(self) -> bytes:
        """Return an ID for the Source Connection ID of a Retry packet: of cid_length octets, routable and never twice.

        Anyone can ask for a Retry, so these IDs come from nonces of their own: see ``reserve_for_retry``. When those
        are used up, or none were set aside, the ID is an unroutable one under the reserved config, of 8 octets at
        least: a balancer then leads the client's next Initial by its 4-tuple, as it led the first one. Never raises.
        Spec: RFC 9000, section 8.1.2; draft-ietf-quic-load-balancers, section "Configuration Failover".
        """
        if os.getpid() != self._pid:
            self._restart()
        issued = next(self._retry_counter)
        if issued >= self._retry_space:
            return self._unroutable()
        return self._routable(self._start - 1 - issued)

    def _routable(self, number: int) -> bytes:
        """Return the ID of a number of this counter, which goes on at 0 past its last number."""
        nonce = (self._tag | number % self._whole_space).to_bytes(self.params.nonce_length, "big")
        return self._codec.encode(self.server_id, self._permute(nonce))

    def _restart(self) -> None:
        """Begin at a random place; a forked child must not go on where its parent will."""
        self._pid = os.getpid()
        self._start = int.from_bytes(self._random_bytes(self.params.nonce_length), "big")
        self._counter = itertools.count()
        self._retry_counter = itertools.count()
        self._issued = 0

    def _exhausted(self) -> bytes:
        if self._on_exhaustion == "raise":
            raise NonceExhausted(
                f"all {self._space} nonces of config ID {self.params.config_id} are used: "
                "issue a new configuration with a new key"
            )
        return self._unroutable()

    def _unroutable(self) -> bytes:
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


def _tag_bits(worker: WorkerTag | None, params: CidParams) -> int:
    if worker is None:
        return 0
    if not 1 <= worker.bits <= 16 or not 0 <= worker.index < 1 << worker.bits:
        raise CidError(f"a worker tag has 1 to 16 bits and an index that fits in them, not {worker}")
    if 8 * params.nonce_length - worker.bits < MIN_TAGGED_BITS:
        raise CidError(
            f"a worker tag of {worker.bits} bits leaves 2^{8 * params.nonce_length - worker.bits} of the nonces of "
            f"nonce_length {params.nonce_length}, which a flood of Initials uses up; leave 2^{MIN_TAGGED_BITS} or more "
            f"by nonce_length {-(-(MIN_TAGGED_BITS + worker.bits) // 8)}, or fewer bits"
        )
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


class RotatingGenerator:
    """What generates IDs now; the next one takes its place between two IDs."""

    __slots__ = ("_for_retry", "_generator")

    def __init__(self, generator: CidGenerator) -> None:
        """Begin with a generator."""
        self._generator = generator
        self._for_retry = False

    @property
    def params(self) -> CidParams:
        """What the next ID is made by."""
        return self._generator.params

    @property
    def used(self) -> int:
        """Nonces that the present generator has used."""
        return self._generator.used

    @property
    def left(self) -> int:
        """Nonces that the present generator has left: export it, and rotate in time."""
        return self._generator.left

    def generate(self) -> bytes:
        """Return a connection ID of params.cid_length octets, first octet included.

        Raises NonceExhausted where the present generator does.
        """
        return self._generator.generate()

    def reserve_for_retry(self) -> None:
        """Set nonces aside for Retry packets, in the present generator and in each that follows."""
        self._for_retry = True
        self._generator.reserve_for_retry()

    def generate_retry(self) -> bytes:
        """Return an ID for a Retry packet, as the present generator makes it. Never raises."""
        return self._generator.generate_retry()

    def rotate(self, generator: CidGenerator) -> None:
        """Issue from another generator from now on.

        It must have another config ID or key, and every balancer must decode it already. Nothing of it is checked, and
        nothing is raised.
        Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation".
        """
        if self._for_retry:
            generator.reserve_for_retry()
        self._generator = generator
