"""AES-128 key schedules, expanded here once so that the C core never expands a key.

Off the packet path: this runs when a table is compiled. Octets are in the order of FIPS 197, round key after
round key; the schedule for decryption is that of the equivalent inverse cipher, in the order of its use.

Spec: FIPS 197, sections 5.2 and 5.3.5.
"""

from itertools import chain
from typing import Final

ROUNDS: Final = 10
SCHEDULE_BYTES: Final = 16 * (ROUNDS + 1)

_WORD_BYTES: Final = 4
_BLOCK_BYTES: Final = 16


def encrypt_schedule(key: bytes) -> bytes:
    """Return the 11 round keys of a key of 16 octets, 176 octets."""
    words = [key[at : at + _WORD_BYTES] for at in range(0, _BLOCK_BYTES, _WORD_BYTES)]
    constant = 1
    for at in range(_WORD_BYTES, SCHEDULE_BYTES // _WORD_BYTES):
        word = words[at - 1]
        if at % 4 == 0:
            word = bytes(_SBOX[octet] for octet in word[1:] + word[:1])
            word = bytes((word[0] ^ constant,)) + word[1:]
            constant = _double(constant)
        words.append(bytes(a ^ b for a, b in zip(words[at - 4], word, strict=True)))
    return b"".join(words)


def decrypt_schedule(key: bytes) -> bytes:
    """Return the 11 round keys of the equivalent inverse cipher, 176 octets: the last one first."""
    octets = encrypt_schedule(key)
    rounds = [octets[at : at + _BLOCK_BYTES] for at in range(0, SCHEDULE_BYTES, _BLOCK_BYTES)]
    first, *middle, last = reversed(rounds)
    return b"".join((first, *map(_inverse_mix_columns, middle), last))


def _inverse_mix_columns(block: bytes) -> bytes:
    columns = (block[at : at + _WORD_BYTES] for at in range(0, _BLOCK_BYTES, _WORD_BYTES))
    return bytes(chain.from_iterable(map(_inverse_mix_column, columns)))


def _inverse_mix_column(column: bytes) -> bytes:
    """Multiply a column by {0b}x³ + {0d}x² + {09}x + {0e}. Spec: FIPS 197, section 5.3.3."""
    factors = (14, 11, 13, 9)
    return bytes(
        _times(column[0], factors[-row])
        ^ _times(column[1], factors[1 - row])
        ^ _times(column[2], factors[2 - row])
        ^ _times(column[3], factors[3 - row])
        for row in range(4)
    )


def _double(octet: int) -> int:
    """Multiply by x in GF(2⁸)."""
    return octet << 1 ^ (0x11B if octet & 0x80 else 0)


def _times(octet: int, factor: int) -> int:
    product = 0
    while factor:
        product ^= octet if factor & 1 else 0
        octet, factor = _double(octet), factor >> 1
    return product


def _sbox() -> bytes:
    """Walk through GF(2⁸) by powers of 3 and, beside them, of its inverse. Spec: FIPS 197, section 5.1.1."""
    box = bytearray(256)
    box[0] = 0x63
    octet = inverse = 1
    for _ in range(255):
        turned = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        box[octet] = (turned ^ turned >> 8) & 0xFF ^ 0x63
        octet = _times(octet, 3)
        inverse = _times(inverse, 0xF6)  # 1 ÷ 3
    return bytes(box)


_SBOX: Final = _sbox()
