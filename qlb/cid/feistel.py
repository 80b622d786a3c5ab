"""The four-pass Feistel network over server ID and nonce, in the form that is fast in Python.

Each half is left-aligned in a 128-bit lane, in the layout of the draft's expand(). One pass is therefore four
operations on whole lanes: OR with a constant (zero padding, length, pass), one AES block, XOR, and a mask that
keeps only the bits of the half. An odd length splits the middle octet: its high nibble belongs to the left half,
its low nibble to the right half.

The draft's pseudocode for decryption clears the first bits of left_1 in its second block. It must be right_1, as
the draft's test vectors prove (tests/cid/test_feistel.py).

Spec: draft-ietf-quic-load-balancers, section "General Case: Four-Pass Encryption".
"""

from collections.abc import Callable
from typing import Final

LANE_BYTES: Final = 16
_LANE_BITS: Final = 128

EncryptBlock = Callable[[bytes], bytes]
"""AES-128-ECB encryption of one 16-octet block."""


class Feistel:
    """The network for one key and one plaintext length, 2 to 19 octets."""

    __slots__ = (
        "_aes",
        "_half_bits",
        "_left_mask",
        "_left_shift",
        "_right_mask",
        "_right_shift",
        "_tails",
        "plaintext_len",
    )

    def __init__(self, plaintext_len: int, aes: EncryptBlock) -> None:
        """Prepare the masks. plaintext_len: octets of server ID and nonce together. aes: encrypts under the key."""
        self._aes = aes
        self.plaintext_len = plaintext_len
        self._half_bits = 4 * plaintext_len
        self._left_shift = _LANE_BITS - self._half_bits
        self._right_shift = _LANE_BITS - 8 * ((plaintext_len + 1) // 2)
        half = (1 << self._half_bits) - 1
        self._left_mask = half << self._left_shift
        self._right_mask = half << self._right_shift
        self._tails = tuple((plaintext_len << 8) | number for number in range(5))

    def split(self, block: bytes) -> tuple[int, int]:
        """Return the lanes (left, right) of a block of plaintext_len octets."""
        number = int.from_bytes(block, "big")
        return number >> self._half_bits << self._left_shift, (number << self._right_shift) & self._right_mask

    def join(self, left: int, right: int) -> bytes:
        """Return the block of plaintext_len octets that consists of these two lanes."""
        number = left >> self._left_shift << self._half_bits | right >> self._right_shift
        return number.to_bytes(self.plaintext_len, "big")

    def encrypt(self, block: bytes) -> bytes:
        """Return the ciphertext of server ID and nonce; both plaintext_len octets."""
        left, right = self.split(block)
        right ^= self.round(left, 1) & self._right_mask
        left ^= self.round(right, 2) & self._left_mask
        right ^= self.round(left, 3) & self._right_mask
        left ^= self.round(right, 4) & self._left_mask
        return self.join(left, right)

    def decrypt(self, block: bytes) -> bytes:
        """Return server ID and nonce of a ciphertext; both plaintext_len octets. Runs four passes."""
        left, right = self._undo_three(block)
        right ^= self.round(left, 1) & self._right_mask
        return self.join(left, right)

    def decrypt_left(self, block: bytes) -> bytes:
        """Return the lane of left_0, 16 octets: its half contains the start of the server ID. Runs three passes."""
        return self._undo_three(block)[0].to_bytes(LANE_BYTES, "big")

    def round(self, lane: int, number: int) -> int:
        """Return AES(expand(plaintext_len, number, half)) as a lane. number: the pass, 1 to 4."""
        return int.from_bytes(self._aes((lane | self._tails[number]).to_bytes(LANE_BYTES, "big")), "big")

    def _undo_three(self, block: bytes) -> tuple[int, int]:
        """Undo passes 4, 3 and 2; return the lanes of left_0 and right_1."""
        # Unrolled: 1.7 µs against 2.3 through round(), and every new connection ID pays it.
        aes, tails, left_mask = self._aes, self._tails, self._left_mask
        number = int.from_bytes(block, "big")
        right = (number << self._right_shift) & self._right_mask
        left = number >> self._half_bits << self._left_shift
        left ^= int.from_bytes(aes((right | tails[4]).to_bytes(16, "big")), "big") & left_mask
        right ^= int.from_bytes(aes((left | tails[3]).to_bytes(16, "big")), "big") & self._right_mask
        left ^= int.from_bytes(aes((right | tails[2]).to_bytes(16, "big")), "big") & left_mask
        return left, right
