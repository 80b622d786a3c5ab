"""The parameters of one CID config. An invalid instance cannot exist.

Spec: draft-ietf-quic-load-balancers, section "Configuration Agent Actions".
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from qlb.cid.octets import octets
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


@dataclass(frozen=True, slots=True, init=False)
class CidParams:
    """One CID config, equal on the balancers and on the servers.

    config_id: 0 to 6, the first three bits of every connection ID.
    server_id_length: 1 to 15 octets. nonce_length: 4 to 18 octets. Their sum is at most 19.
    key: 16 octets, passed as bytes or as 32 hexadecimal digits, or None. Without a key, every packet shows its server
    ID.
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

    def __init__(
        self,
        config_id: int,
        server_id_length: int,
        nonce_length: int,
        key: bytes | str | None = None,
        length_self_encoded: bool = False,
        cid_length: int = 0,
    ) -> None:
        """Reject values that the draft forbids. cid_length: 0 selects the default."""
        _require_range("config_id", config_id, 0, MAX_CONFIG_ID)
        _require_range("server_id_length", server_id_length, MIN_SERVER_ID_BYTES, MAX_SERVER_ID_BYTES)
        _require_range("nonce_length", nonce_length, MIN_NONCE_BYTES, MAX_NONCE_BYTES)
        plaintext_len = server_id_length + nonce_length
        if plaintext_len > MAX_PLAINTEXT_BYTES:
            raise CidError(
                f"server_id_length + nonce_length is {plaintext_len} octets; "
                f"the sum must be at most {MAX_PLAINTEXT_BYTES}"
            )
        if cid_length != 0 or type(cid_length) is not int:
            _require_range("cid_length", cid_length, 1 + plaintext_len, MAX_CID_BYTES)
        fields = {
            "config_id": config_id,
            "server_id_length": server_id_length,
            "nonce_length": nonce_length,
            "key": None if key is None else key_octets("key", key),
            "length_self_encoded": length_self_encoded,
            "cid_length": cid_length or 1 + plaintext_len,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

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


def key_octets(name: str, value: object) -> bytes:
    """Return the octets of an AES-128 key, given as bytes or as hexadecimal text. Raises CidError without the key.

    name: of the parameter.
    """
    key = octets(name, value, secret=True)
    if len(key) != KEY_BYTES:
        has = f"digits: {2 * len(key)}" if isinstance(value, str) else f"octets: {len(key)}"
        raise CidError(f"{name} must be {KEY_BYTES} octets (AES-128) or {2 * KEY_BYTES} hexadecimal digits; {has}")
    return key


def _require_range(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise CidError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
