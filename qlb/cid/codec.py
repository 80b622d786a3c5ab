"""Encode (server ID, nonce) as a connection ID, and decode it: plaintext, single-pass or four-pass.

A balancer decodes each connection ID that is not in its memo; a server encodes. A codec creates its AES contexts
once: creating one costs 4 µs, encrypting a block with an existing one 0.1 µs. A codec belongs to one thread at a
time. decode() ignores the three config rotation bits: the router selects the codec by them (config_id_of).

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Load Balancer Actions".
"""

import os
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.cid.feistel import Feistel
from qlb.cid.octets import octets
from qlb.cid.params import FOUR_PASS, PLAINTEXT, SINGLE_PASS, CidParams
from qlb.errors import CidError

RandomBytes = Callable[[int], bytes]
"""A function from a number of octets to that many random octets."""

_CONFIG_SHIFT: Final = 5
_LENGTH_MASK: Final = 0x1F


class CidCodec:
    """An encoder and decoder for the connection IDs of one CID config."""

    __slots__ = ("_block_end", "_decode_block", "_encode_block", "_random_bytes", "params")

    def __init__(self, params: CidParams, *, random_bytes: RandomBytes = os.urandom) -> None:
        """Prepare the algorithm that the parameters select.

        random_bytes: returns a number of random octets, for the free bits of the first octet and for the padding up
        to cid_length.
        """
        self.params = params
        self._random_bytes = random_bytes
        self._block_end = params.block_end
        self._encode_block, self._decode_block = _SCHEMES[params.algorithm](params)

    def __reduce__(self) -> tuple[type["CidCodec"], tuple[CidParams]]:
        """Pickle the parameters only: an AES context cannot be pickled."""
        return CidCodec, (self.params,)

    def encode(self, server_id: bytes | str, nonce: bytes) -> bytes:
        """Return a connection ID of params.cid_length octets (6 to 20), first octet included.

        server_id: params.server_id_length octets (1 to 15), as bytes or as hexadecimal text. nonce: params.nonce_length
        octets (4 to 18). Never use the same nonce twice with one server ID and key.
        Raises CidError if a length is wrong, or if a text is not hexadecimal.
        Spec: draft-ietf-quic-load-balancers, section "Server Actions".
        """
        params = self.params
        if isinstance(server_id, str):
            server_id = octets("server_id", server_id)
        if len(server_id) != params.server_id_length:
            raise CidError(f"the server ID has {len(server_id)} octets, not {params.server_id_length}")
        if len(nonce) != params.nonce_length:
            raise CidError(f"the nonce has {len(nonce)} octets, not {params.nonce_length}")
        padding = self._random_bytes(params.cid_length - self._block_end)
        first = first_octet(params.config_id, params.cid_length, params.length_self_encoded, self._random_bytes)
        return bytes((first,)) + self._encode_block(server_id + nonce) + padding

    def decode(self, cid: bytes) -> bytes | None:
        """Return the server ID of a connection ID, params.server_id_length octets; None if the ID is too short.

        cid: first octet included, params.block_end octets or more. Octets after the block are ignored: a server may
        append its own. The first octet is ignored too: the caller checks its config ID and length. Never raises.
        Every ID that is long enough decodes to some server ID; only the caller knows which server IDs exist.
        Spec: draft-ietf-quic-load-balancers, section "Load Balancer Actions".
        """
        if len(cid) < self._block_end:
            return None
        return self._decode_block(cid[1 : self._block_end])


def config_id_of(cid: bytes) -> int:
    """Return the config ID of a connection ID: the three config rotation bits of its first octet, 0 to 7.

    cid: one octet or more. 7 (0b111) is reserved.
    Raises IndexError if cid is empty.
    Spec: draft-ietf-quic-load-balancers, section "First CID octet".
    """
    return cid[0] >> _CONFIG_SHIFT


def first_octet(config_id: int, cid_length: int, length_self_encoded: bool, random_bytes: RandomBytes) -> int:
    """Return the first octet: three bits of config ID, then five bits of length (without this octet) or random bits.

    config_id: 0 to 7. cid_length: octets of the whole ID, 1 to 20. Neither is checked.
    Spec: draft-ietf-quic-load-balancers, section "First CID octet".
    """
    low = cid_length - 1 if length_self_encoded else random_bytes(1)[0] & _LENGTH_MASK
    return config_id << _CONFIG_SHIFT | low


Scheme = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
"""(plaintext block → wire block, wire block → server ID)."""


def _plaintext(params: CidParams) -> Scheme:
    length = params.server_id_length
    return bytes, lambda block: block[:length]


def _single_pass(params: CidParams) -> Scheme:
    length = params.server_id_length
    cipher = _aes_ecb(params)
    decrypt = cipher.decryptor().update
    return cipher.encryptor().update, lambda block: decrypt(block)[:length]


def _four_pass(params: CidParams) -> Scheme:
    length = params.server_id_length
    feistel = Feistel(params.plaintext_len, _aes_ecb(params).encryptor().update)
    # Three passes recover left_0, which contains the whole server ID unless it is longer than the nonce.
    decrypt = feistel.decrypt_left if length <= params.nonce_length else feistel.decrypt
    return feistel.encrypt, lambda block: decrypt(block)[:length]


_SCHEMES: Final[dict[str, Callable[[CidParams], Scheme]]] = {
    PLAINTEXT: _plaintext,
    SINGLE_PASS: _single_pass,
    FOUR_PASS: _four_pass,
}


def _aes_ecb(params: CidParams) -> "Cipher[modes.ECB]":
    assert params.key is not None, "an encrypted algorithm has a key"
    # ECB is safe here: the draft encrypts single blocks that never repeat, so AES serves as a plain block cipher.
    return Cipher(algorithms.AES(params.key), modes.ECB())
