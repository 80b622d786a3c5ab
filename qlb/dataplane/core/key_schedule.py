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
_SBOX: Final = bytes.fromhex(
    "637c777bf26b6fc53001672bfed7ab76ca82c97dfa5947f0add4a2af9ca472c0"
    "b7fd9326363ff7cc34a5e5f171d8311504c723c31896059a071280e2eb27b275"
    "09832c1a1b6e5aa0523bd6b329e32f8453d100ed20fcb15b6acbbe394a4c58cf"
    "d0efaafb434d338545f9027f503c9fa851a3408f929d38f5bcb6da2110fff3d2"
    "cd0c13ec5f974417c4a77e3d645d197360814fdc222a908846eeb814de5e0bdb"
    "e0323a0a4906245cc2d3ac629195e479e7c8376d8dd54ea96c56f4ea657aae08"
    "ba78252e1ca6b4c6e8dd741f4bbd8b8a703eb5664803f60e613557b986c11d9e"
    "e1f8981169d98e949b1e87e9ce5528df8ca1890dbfe6426841992d0fb054bb16"
)
"""The S-box: the octet at index n replaces the octet n. Spec: FIPS 197, section 5.1.1."""


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
