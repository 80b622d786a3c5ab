"""AES-128 in C, by tables and by the CPU's instructions, compared with cryptography."""

import functools
import operator
import random
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.dataplane.core.key_schedule import _SBOX, SCHEDULE_BYTES, decrypt_schedule, encrypt_schedule


@pytest.fixture(params=[False, True], ids=["tables", "native"])
def native(request: pytest.FixtureRequest, core: ModuleType) -> bool:
    """Use AES by tables, and by instructions if this CPU has them."""
    if request.param and not core.has_native_aes():
        pytest.skip("this CPU has no AES instructions that the core can use")
    return bool(request.param)


def test_the_standards_example(core: ModuleType, native: bool) -> None:
    """The examples of FIPS 197 give the published results: appendices A.1 (end of the key schedule) and B."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    block = bytes.fromhex("3243f6a8885a308d313198a2e0370734")
    cipher = bytes.fromhex("3925841d02dc09fbdc118597196a0b32")
    assert encrypt_schedule(key)[-16:].hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"
    assert core.aes_encrypt(encrypt_schedule(key), block, native) == cipher
    assert core.aes_decrypt(decrypt_schedule(key), cipher, native) == block


def _times(a: int, b: int) -> int:
    """Multiply in GF(2⁸) modulo x⁸ + x⁴ + x³ + x + 1. Spec: FIPS 197, section 4.2."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) * (b >> bit & 1)
    for degree in range(14, 7, -1):
        product ^= (0x11B << degree - 8) * (product >> degree & 1)
    return product


def test_the_s_box_is_the_one_of_the_definition() -> None:
    """The S-box of the key schedule is the inverse in GF(2⁸), then an affine map. Spec: FIPS 197, section 5.1.1."""
    for octet in range(256):
        inverse = next((other for other in range(256) if _times(octet, other) == 1), 0)
        turned = (inverse << n | inverse >> 8 - n for n in range(5))
        expected = functools.reduce(operator.xor, turned) & 0xFF ^ 0x63
        assert _SBOX[octet] == expected
    assert len(_SBOX) == 256


def test_against_cryptography(core: ModuleType, native: bool) -> None:
    """500 random keys and blocks match: 72,000 lookups, so each of the 1,024 entries of each table is read."""
    dice = random.Random(197)
    for _ in range(500):
        key, block = dice.randbytes(16), dice.randbytes(16)
        reference = Cipher(algorithms.AES(key), modes.ECB())
        assert core.aes_encrypt(encrypt_schedule(key), block, native) == reference.encryptor().update(block)
        assert core.aes_decrypt(decrypt_schedule(key), block, native) == reference.decryptor().update(block)


def test_wrong_sizes(core: ModuleType) -> None:
    """A schedule or a block of another size is rejected and not read."""
    for schedule, block in ((bytes(SCHEDULE_BYTES - 1), bytes(16)), (bytes(SCHEDULE_BYTES), bytes(15))):
        for function in (core.aes_encrypt, core.aes_decrypt):
            with pytest.raises(ValueError, match="176 octets of round keys"):
                function(schedule, block)
