"""The four-pass Feistel network over server ID and nonce, in the shape that is fast in Python.

A half sits left-aligned in a 128-bit lane, just as the draft's expand() lays it out, so that a pass is
one OR with a constant (zero padding, length, pass), one AES block, one XOR and one mask that keeps the
half's own bits. Odd lengths split the middle octet: its first nibble belongs to the left half, its last
to the right. The same four lines serve one block (one lane) and a batch (lanes side by side in one
large integer).

The draft's decryption pseudocode clears the first bits of left_1 in its second block; it must be
right_1, which the vectors pin (tests/cid/test_feistel.py).

Spec: draft-ietf-quic-load-balancers, section "General Case: Four-Pass Encryption".
"""

from collections.abc import Callable, Sequence
from typing import Final

LANE_BYTES: Final = 16
_LANE_BITS: Final = 128

EncryptBlocks = Callable[[bytes], bytes]
"""AES-128-ECB encryption of any number of whole 16-octet blocks."""


class Feistel:
    """The network for one key and one plaintext length, 2 to 19 octets."""

    __slots__ = (
        "_aes",
        "_half_bits",
        "_half_len",
        "_left_mask",
        "_left_shift",
        "_right_mask",
        "_right_shift",
        "_tails",
        "plaintext_len",
    )

    def __init__(self, plaintext_len: int, aes: EncryptBlocks) -> None:
        """Prepare the masks. plaintext_len: octets of server ID and nonce together."""
        self._aes = aes
        self.plaintext_len = plaintext_len
        self._half_len = (plaintext_len + 1) // 2
        self._half_bits = 4 * plaintext_len
        self._left_shift = _LANE_BITS - self._half_bits
        self._right_shift = _LANE_BITS - 8 * self._half_len
        half = (1 << self._half_bits) - 1
        self._left_mask = half << self._left_shift
        self._right_mask = half << self._right_shift
        self._tails = tuple((plaintext_len << 8) | number for number in range(5))

    def split(self, block: bytes) -> tuple[int, int]:
        """Return the lanes (left, right) of a block of plaintext_len octets."""
        number = int.from_bytes(block, "big")
        return number >> self._half_bits << self._left_shift, (number << self._right_shift) & self._right_mask

    def join(self, left: int, right: int) -> bytes:
        """Return the block of plaintext_len octets whose lanes these are."""
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
        """Return server ID and nonce of a ciphertext; both plaintext_len octets. Four passes."""
        left, right = self._undo_three(block)
        right ^= self.round(left, 1) & self._right_mask
        return self.join(left, right)

    def decrypt_left(self, block: bytes) -> bytes:
        """Return the lane of left_0, 16 octets: its first half holds the start of the server ID. Three passes."""
        return self._undo_three(block)[0].to_bytes(LANE_BYTES, "big")

    def decrypt_batch(self, blocks: Sequence[bytes]) -> list[bytes]:
        """Return server ID and nonce of each ciphertext; one AES call a pass."""
        left, right = self._undo_three_batch(blocks)
        ones = _ones(len(blocks))
        right ^= self._rounds(left, 1, ones) & (self._right_mask * ones)
        lefts, rights = _lanes(left, len(blocks)), _lanes(right, len(blocks))
        return [
            self.join(int.from_bytes(a, "big"), int.from_bytes(b, "big")) for a, b in zip(lefts, rights, strict=True)
        ]

    def decrypt_left_batch(self, blocks: Sequence[bytes]) -> list[bytes]:
        """Return the lane of left_0 of each ciphertext, 16 octets; three AES calls in all."""
        return _lanes(self._undo_three_batch(blocks)[0], len(blocks))

    def round(self, lane: int, number: int) -> int:
        """Return AES(expand(plaintext_len, number, half)) as a lane. number: the pass, 1 to 4."""
        return int.from_bytes(self._aes((lane | self._tails[number]).to_bytes(LANE_BYTES, "big")), "big")

    def _undo_three(self, block: bytes) -> tuple[int, int]:
        # Unrolled: 1.7 µs against 2.3 through round(), and this is the price of every new connection ID.
        aes, tails, left_mask = self._aes, self._tails, self._left_mask
        number = int.from_bytes(block, "big")
        right = (number << self._right_shift) & self._right_mask
        left = number >> self._half_bits << self._left_shift
        left ^= int.from_bytes(aes((right | tails[4]).to_bytes(16, "big")), "big") & left_mask
        right ^= int.from_bytes(aes((left | tails[3]).to_bytes(16, "big")), "big") & self._right_mask
        left ^= int.from_bytes(aes((right | tails[2]).to_bytes(16, "big")), "big") & left_mask
        return left, right

    def _undo_three_batch(self, blocks: Sequence[bytes]) -> tuple[int, int]:
        half_len, ones = self._half_len, _ones(len(blocks))
        left_mask, right_mask = self._left_mask * ones, self._right_mask * ones
        padding = bytes(LANE_BYTES - half_len)
        left = int.from_bytes(padding.join([block[:half_len] for block in blocks]) + padding, "big") & left_mask
        right = int.from_bytes(padding.join([block[-half_len:] for block in blocks]) + padding, "big") & right_mask
        left ^= self._rounds(right, 4, ones) & left_mask
        right ^= self._rounds(left, 3, ones) & right_mask
        left ^= self._rounds(right, 2, ones) & left_mask
        return left, right

    def _rounds(self, lanes: int, number: int, ones: int) -> int:
        size = (ones.bit_length() + 127) // 8
        return int.from_bytes(self._aes((lanes | self._tails[number] * ones).to_bytes(size, "big")), "big")


def _ones(count: int) -> int:
    """One lane of value 1 after another: times a constant, the constant in every lane."""
    return int.from_bytes((bytes(LANE_BYTES - 1) + b"\1") * count, "big")


def _lanes(lanes: int, count: int) -> list[bytes]:
    octets = lanes.to_bytes(LANE_BYTES * count, "big")
    return [octets[at : at + LANE_BYTES] for at in range(0, len(octets), LANE_BYTES)]
