"""AES-128 in C, by tables and by the CPU's instructions, against cryptography."""

import random
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.dataplane.core.key_schedule import SCHEDULE_BYTES, decrypt_schedule, encrypt_schedule


@pytest.fixture(params=[False, True], ids=["tables", "native"])
def native(request: pytest.FixtureRequest, core: ModuleType) -> bool:
    """Both ways of the core; the second where this CPU has it."""
    if request.param and not core.has_native_aes():
        pytest.skip("this CPU has no AES instructions that the core knows")
    return bool(request.param)


def test_the_standards_example(core: ModuleType, native: bool) -> None:
    """Spec: FIPS 197, appendices A.1 (the key schedule's end) and B."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    block = bytes.fromhex("3243f6a8885a308d313198a2e0370734")
    cipher = bytes.fromhex("3925841d02dc09fbdc118597196a0b32")
    assert encrypt_schedule(key)[-16:].hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"
    assert core.aes_encrypt(encrypt_schedule(key), block, native) == cipher
    assert core.aes_decrypt(decrypt_schedule(key), cipher, native) == block


def test_against_cryptography(core: ModuleType, native: bool) -> None:
    """500 keys and blocks: 72,000 lookups, so every one of the 1,024 entries of each table is looked at."""
    dice = random.Random(197)
    for _ in range(500):
        key, block = dice.randbytes(16), dice.randbytes(16)
        reference = Cipher(algorithms.AES(key), modes.ECB())
        assert core.aes_encrypt(encrypt_schedule(key), block, native) == reference.encryptor().update(block)
        assert core.aes_decrypt(decrypt_schedule(key), block, native) == reference.decryptor().update(block)


def test_wrong_sizes(core: ModuleType) -> None:
    """A schedule or a block of another size is refused, not read."""
    for schedule, block in ((bytes(SCHEDULE_BYTES - 1), bytes(16)), (bytes(SCHEDULE_BYTES), bytes(15))):
        for function in (core.aes_encrypt, core.aes_decrypt):
            with pytest.raises(ValueError, match="176 octets of round keys"):
                function(schedule, block)
