"""Tests of the four-pass network, pass by pass, against the draft's worked example and its misprints."""

import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidParams, codec
from qlb.cid.feistel import LANE_BYTES, EncryptBlock, Feistel
from tests.cid.test_vectors import VECTORS

EXAMPLE = VECTORS["worked_example"]
KEY = bytes.fromhex(EXAMPLE["key"])
PLAINTEXT = bytes.fromhex(EXAMPLE["server_id"] + EXAMPLE["nonce"])
CIPHERTEXT = bytes.fromhex(EXAMPLE["cid"])[1:]


def _aes(key: bytes) -> EncryptBlock:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update


def _watched(blocks: list[bytes], key: bytes = KEY) -> EncryptBlock:
    """Return an AES function that records every block that it encrypts."""

    def encrypt(block: bytes) -> bytes:
        blocks.append(block)
        return _aes(key)(block)

    return encrypt


def _lane(half: str) -> int:
    """Return a half in the draft's notation as a lane, left-aligned as in expand()."""
    return int.from_bytes(bytes.fromhex(half).ljust(LANE_BYTES, b"\0"), "big")


def test_split_of_the_worked_example() -> None:
    """Step 2 splits an odd plaintext in the middle of its middle octet, and join() reverts it."""
    feistel = Feistel(len(PLAINTEXT), _aes(KEY))
    assert feistel.split(PLAINTEXT) == (_lane("31441a90"), _lane("0c69c275"))
    assert feistel.join(*feistel.split(PLAINTEXT)) == PLAINTEXT


@pytest.mark.parametrize("row", EXAMPLE["passes"], ids=lambda row: f"pass {row['pass']}")
def test_round_of_the_worked_example(row: dict[str, str | int]) -> None:
    """Each pass calls AES with the printed input and receives the printed output."""
    blocks: list[bytes] = []
    feistel = Feistel(len(PLAINTEXT), _watched(blocks))
    aes_input, aes_output = bytes.fromhex(str(row["aes_input"])), bytes.fromhex(str(row["aes_output"]))
    half = _lane(aes_input[:4].hex())
    assert feistel.round(half, int(row["pass"])) == int.from_bytes(aes_output, "big")
    assert blocks == [aes_input]


def test_passes_chain_into_the_worked_example() -> None:
    """split(), four rounds with the printed halves and join() give the printed ID."""
    feistel = Feistel(len(PLAINTEXT), _aes(KEY))
    left, right = feistel.split(PLAINTEXT)
    ours = {"left": _lane("fffffff0"), "right": _lane("0fffffff")}
    for row in EXAMPLE["passes"]:
        if "right" in row:
            right ^= feistel.round(left, row["pass"]) & ours["right"]
            assert right == _lane(row["right"])
        else:
            left ^= feistel.round(right, row["pass"]) & ours["left"]
            assert left == _lane(row["left"])
    assert feistel.join(left, right) == CIPHERTEXT


def test_encrypt_asks_aes_for_the_printed_blocks() -> None:
    """encrypt() consists of these four passes in order."""
    blocks: list[bytes] = []
    assert Feistel(len(PLAINTEXT), _watched(blocks)).encrypt(PLAINTEXT) == CIPHERTEXT
    assert [block.hex() for block in blocks] == [row["aes_input"] for row in EXAMPLE["passes"]]


@pytest.mark.parametrize(
    ("decrypt", "passes"),
    [
        (lambda network: network.decrypt(CIPHERTEXT), (4, 3, 2, 1)),
        (lambda network: network.decrypt_left(CIPHERTEXT), (4, 3, 2)),
    ],
    ids=["decrypt", "decrypt_left"],
)
def test_decryption_walks_the_passes_back(decrypt: Callable[[Feistel], bytes], passes: tuple[int, ...]) -> None:
    """Decryption uses the blocks of encryption in reverse, and only three for the left half."""
    blocks: list[bytes] = []
    found = decrypt(Feistel(len(PLAINTEXT), _watched(blocks)))
    inputs = {row["pass"]: row["aes_input"] for row in EXAMPLE["passes"]}
    assert [block.hex() for block in blocks] == [inputs[number] for number in passes]
    assert found in (PLAINTEXT, bytes.fromhex("31441a90").ljust(LANE_BYTES, b"\0"))


@pytest.mark.parametrize(("server_id_length", "nonce_length"), oracle.LEGAL_PAIRS)
def test_three_passes_unless_the_server_id_is_longer(
    server_id_length: int, nonce_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fourth pass runs only if the server ID is longer than the nonce, and so than left_0."""
    blocks: list[bytes] = []
    monkeypatch.setattr(codec, "Feistel", lambda length, _aes: Feistel(length, _watched(blocks)))
    params = CidParams(0, server_id_length, nonce_length, KEY)
    CidCodec(params).decode(bytes(20))
    passes = 4 if server_id_length > nonce_length else 3
    assert len(blocks) == (0 if server_id_length + nonce_length == 16 else passes)


@pytest.mark.parametrize(("server_id_length", "nonce_length"), oracle.ODD_PAIRS)
def test_decryption_pseudocode_erratum(server_id_length: int, nonce_length: int) -> None:
    """The second block must clear the first bits of right_1. With left_1, as printed, odd IDs fail."""
    dice = random.Random(server_id_length * 100 + nonce_length)
    plaintexts = [list(dice.randbytes(server_id_length + nonce_length)) for _ in range(8)]
    printed = []
    for plaintext in plaintexts:
        ciphertext = oracle.four_pass_encrypt(KEY, plaintext)
        assert oracle.four_pass_decrypt(KEY, ciphertext) == plaintext
        feistel = Feistel(len(plaintext), _aes(KEY))
        assert feistel.decrypt(bytes(ciphertext)) == bytes(plaintext)
        printed.append(oracle.four_pass_decrypt(KEY, ciphertext, as_printed=True) == plaintext)
    assert not all(printed)


@pytest.mark.parametrize("length", range(2, 20))
def test_network_is_a_permutation_of_every_length(length: int) -> None:
    """It works from 2 octets on: generators permute nonces, which are shorter than IDs."""
    dice = random.Random(length)
    feistel = Feistel(length, _aes(KEY))
    blocks = [dice.randbytes(length) for _ in range(20)]
    assert [feistel.decrypt(feistel.encrypt(block)) for block in blocks] == blocks

    assert len({feistel.encrypt(block) for block in blocks}) == len(set(blocks))


def test_smallest_network_is_a_permutation_of_its_whole_space() -> None:
    """Each of the 65,536 blocks of two octets is the ciphertext of one block."""
    feistel = Feistel(2, _aes(KEY))
    assert len({feistel.encrypt(number.to_bytes(2, "big")) for number in range(65536)}) == 65536
