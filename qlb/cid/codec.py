"""Between (server ID, nonce) and a connection ID: plaintext, single pass or four passes.

The balancer decodes with it, once per connection ID that it has not seen; servers encode. AES contexts
are made once per codec: a fresh one costs 4 µs, a kept one 0.1 µs a block. A codec belongs to one thread
at a time. Nothing here looks at the three config bits: choosing the codec by them is the router's part.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Load Balancer Actions".
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.cid.feistel import Feistel
from qlb.cid.params import FOUR_PASS, PLAINTEXT, SINGLE_PASS, CidParams
from qlb.errors import CidError

RandomBytes = Callable[[int], bytes]
"""How many octets are wanted → that many random octets."""

_BATCH: Final = 64
"""Connection IDs a batch: beyond it the large integers outgrow the cache and win nothing more."""
_CONFIG_SHIFT: Final = 5
_LENGTH_MASK: Final = 0x1F


class CidCodec:
    """Encode and decode the connection IDs of one configuration."""

    __slots__ = ("_block_end", "_decode_block", "_decode_blocks", "_encode_block", "_random_bytes", "params")

    def __init__(self, params: CidParams, *, random_bytes: RandomBytes = os.urandom) -> None:
        """Prepare the algorithm that the parameters choose.

        random_bytes: count -> that many random octets, for the first octet's free bits and for the octets that pad up
        to cid_length.
        """
        self.params = params
        self._random_bytes = random_bytes
        self._block_end = params.block_end
        scheme = _SCHEMES[params.algorithm](params)
        self._encode_block, self._decode_block, self._decode_blocks = scheme

    def __reduce__(self) -> tuple[type["CidCodec"], tuple[CidParams]]:
        """Pickle the parameters: AES contexts do not travel between processes."""
        return CidCodec, (self.params,)

    def encode(self, server_id: bytes, nonce: bytes) -> bytes:
        """Return a connection ID of params.cid_length octets (6 to 20), first octet included.

        server_id: params.server_id_length octets (1 to 15). nonce: params.nonce_length octets (4 to 18); never use one
        nonce twice with a server ID and key.
        Raises CidError where a length is wrong.
        Spec: draft-ietf-quic-load-balancers, section "Server Actions".
        """
        params = self.params
        if len(server_id) != params.server_id_length:
            raise CidError(f"the server ID has {len(server_id)} octets, not {params.server_id_length}")
        if len(nonce) != params.nonce_length:
            raise CidError(f"the nonce has {len(nonce)} octets, not {params.nonce_length}")
        padding = self._random_bytes(params.cid_length - self._block_end)
        first = first_octet(params.config_id, params.cid_length, params.length_self_encoded, self._random_bytes)
        return bytes((first,)) + self._encode_block(server_id + nonce) + padding

    def decode(self, cid: bytes) -> bytes | None:
        """Return the server ID of a connection ID, params.server_id_length octets; None where the ID is too short.

        cid: first octet included, params.block_end octets or more; those after the block are accepted (a server may
        append its own). The first octet is not looked at: its config ID and length are the caller's. Never raises.
        Any ID that is long enough decodes to something: the caller looks the server ID up.
        Spec: draft-ietf-quic-load-balancers, section "Load Balancer Actions".
        """
        if len(cid) < self._block_end:
            return None
        return self._decode_block(cid[1 : self._block_end])

    def decode_batch(self, cids: Sequence[bytes]) -> list[bytes | None]:
        """Return decode() of each connection ID in order, with one AES call a pass for every 64 of them.

        Spec: draft-ietf-quic-load-balancers, section "Load Balancer Actions".
        """
        end = self._block_end
        found: list[bytes | None] = [None] * len(cids)
        whole = [index for index, cid in enumerate(cids) if len(cid) >= end]
        for start in range(0, len(whole), _BATCH):
            indexes = whole[start : start + _BATCH]
            server_ids = self._decode_blocks([cids[index][1:end] for index in indexes])
            for index, server_id in zip(indexes, server_ids, strict=True):
                found[index] = server_id
        return found


def first_octet(config_id: int, cid_length: int, length_self_encoded: bool, random_bytes: RandomBytes) -> int:
    """Return the first octet: three bits of config ID, five of length (without this octet) or chance.

    config_id: 0 to 7. cid_length: octets of the whole ID, 1 to 20. Neither is checked.
    Spec: draft-ietf-quic-load-balancers, section "First CID octet".
    """
    low = cid_length - 1 if length_self_encoded else random_bytes(1)[0] & _LENGTH_MASK
    return config_id << _CONFIG_SHIFT | low


Scheme = tuple[
    Callable[[bytes], bytes],
    Callable[[bytes], bytes],
    Callable[[Sequence[bytes]], list[bytes]],
]
"""(plaintext block → wire block, wire block → server ID, wire blocks → server IDs)."""


def _plaintext(params: CidParams) -> Scheme:
    length = params.server_id_length
    return bytes, lambda block: block[:length], lambda blocks: [block[:length] for block in blocks]


def _single_pass(params: CidParams) -> Scheme:
    length = params.server_id_length
    cipher = _aes_ecb(params)
    decrypt = cipher.decryptor().update

    def decode_blocks(blocks: Sequence[bytes]) -> list[bytes]:
        octets = decrypt(b"".join(blocks))
        return [octets[at : at + length] for at in range(0, len(octets), 16)]

    return cipher.encryptor().update, lambda block: decrypt(block)[:length], decode_blocks


def _four_pass(params: CidParams) -> Scheme:
    length = params.server_id_length
    feistel = Feistel(params.plaintext_len, _aes_ecb(params).encryptor().update)
    # Three passes recover left_0, which holds the whole server ID unless it is longer than the nonce.
    fits = length <= params.nonce_length
    decrypt = feistel.decrypt_left if fits else feistel.decrypt
    decrypt_batch = feistel.decrypt_left_batch if fits else feistel.decrypt_batch
    return (
        feistel.encrypt,
        lambda block: decrypt(block)[:length],
        lambda blocks: [lane[:length] for lane in decrypt_batch(blocks)],
    )


_SCHEMES: Final[dict[str, Callable[[CidParams], Scheme]]] = {
    PLAINTEXT: _plaintext,
    SINGLE_PASS: _single_pass,
    FOUR_PASS: _four_pass,
}


def _aes_ecb(params: CidParams) -> "Cipher[modes.ECB]":
    assert params.key is not None, "an encrypted algorithm has a key"
    # ECB of single, never repeated blocks is what the draft builds on; it is a block cipher here, not a mode.
    return Cipher(algorithms.AES(params.key), modes.ECB())
