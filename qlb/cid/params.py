"""The parameters of one CID config. An invalid instance cannot exist.

Spec: draft-ietf-quic-load-balancers, section "Configuration Agent Actions".
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from qlb.errors import CidError

MAX_CONFIG_ID: Final = 6
"""The largest config ID of a CID config; the value 0b111 is reserved."""
RESERVED_CONFIG_ID: Final = 7
"""0b111: IDs with these bits are unroutable by design. Spec: section "Configuration Failover"."""
KEY_BYTES: Final = 16
MIN_SERVER_ID_BYTES: Final = 1
MAX_SERVER_ID_BYTES: Final = 15
MIN_NONCE_BYTES: Final = 4
MAX_NONCE_BYTES: Final = 18
MAX_PLAINTEXT_BYTES: Final = 19
MAX_CID_BYTES: Final = 20
"""The longest connection ID that QUIC versions 1 and 2 allow, first octet included."""
SINGLE_PASS_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 4

PLAINTEXT: Final = "plaintext"
SINGLE_PASS: Final = "single-pass"
FOUR_PASS: Final = "four-pass"


@dataclass(frozen=True, slots=True)
class CidParams:
    """One CID config, equal on the balancers and on the servers.

    config_id: 0 to 6, the first three bits of every connection ID.
    server_id_length: 1 to 15 octets. nonce_length: 4 to 18 octets. Their sum is at most 19.
    key: 16 octets, or None. Without a key, every packet shows its server ID.
    length_self_encoded: the low five bits of the first octet encode the number of octets that follow it.
    cid_length: octets of a whole connection ID, first octet included. The default is 1 + server_id_length +
    nonce_length, the maximum 20. Octets beyond the default are random.

    Raises CidError, which names the parameter, if a value is out of its range.
    Spec: draft-ietf-quic-load-balancers, sections "Configuration Agent Actions" and "First CID octet".
    """

    config_id: int
    server_id_length: int
    nonce_length: int
    key: bytes | None = field(default=None, repr=False)
    length_self_encoded: bool = False
    cid_length: int = 0

    def __post_init__(self) -> None:
        """Reject values that the draft forbids."""
        _require_range("config_id", self.config_id, 0, MAX_CONFIG_ID)
        _require_range("server_id_length", self.server_id_length, MIN_SERVER_ID_BYTES, MAX_SERVER_ID_BYTES)
        _require_range("nonce_length", self.nonce_length, MIN_NONCE_BYTES, MAX_NONCE_BYTES)
        if self.plaintext_len > MAX_PLAINTEXT_BYTES:
            raise CidError(
                f"server_id_length + nonce_length is {self.plaintext_len} octets; "
                f"the sum must be at most {MAX_PLAINTEXT_BYTES}"
            )
        if self.key is not None and (not isinstance(self.key, bytes) or len(self.key) != KEY_BYTES):
            raise CidError(f"key must be {KEY_BYTES} octets (AES-128)")
        if self.cid_length == 0:
            object.__setattr__(self, "cid_length", self.block_end)
        _require_range("cid_length", self.cid_length, self.block_end, MAX_CID_BYTES)

    @property
    def plaintext_len(self) -> int:
        """The octets of server ID and nonce together: 5 to 19."""
        return self.server_id_length + self.nonce_length

    @property
    def block_end(self) -> int:
        """The octets that decoding needs, first octet included: 6 to 20."""
        return 1 + self.plaintext_len

    @property
    def algorithm(self) -> str:
        """``plaintext`` without a key; with one ``single-pass`` if plaintext_len is 16, otherwise ``four-pass``."""
        if self.key is None:
            return PLAINTEXT
        return SINGLE_PASS if self.plaintext_len == SINGLE_PASS_BYTES else FOUR_PASS

    @property
    def fingerprint(self) -> str:
        """8 hex digits: a hash of the key and the other parameters that decoding depends on, without the config ID.

        Nodes with equal fingerprints decode alike. It is not a secret: a random key cannot be found from it.
        """
        lengths = bytes((self.server_id_length, self.nonce_length, self.length_self_encoded, self.key is not None))
        return hashlib.blake2b(lengths, key=self.key or b"", digest_size=FINGERPRINT_BYTES).hexdigest()


def _require_range(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise CidError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
