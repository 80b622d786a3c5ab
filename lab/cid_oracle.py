"""The algorithms of the draft's text, step by step and without optimization: the oracle of qlb.cid.

Octets are lists of integers. The four helper functions are the draft's, every AES block gets a fresh context, and
decoding always runs all four passes. This module imports nothing of qlb, so agreement means agreement with the text.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Load Balancer Actions".
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Octets = list[int]

LEGAL_PAIRS = tuple(
    (server_id_length, nonce_length)
    for server_id_length in range(1, 16)
    for nonce_length in range(4, 19)
    if server_id_length + nonce_length <= 19
)
"""Every (server ID length, nonce length) that the draft allows: 120 of them."""

ODD_PAIRS = tuple(pair for pair in LEGAL_PAIRS if sum(pair) % 2)


def aes_ecb(key: bytes, block: Octets) -> Octets:
    """Encrypt one block with AES-ECB."""
    return list(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(block)))


def aes_ecb_decrypt(key: bytes, block: Octets) -> Octets:
    """Decrypt one block with AES-ECB."""
    return list(Cipher(algorithms.AES(key), modes.ECB()).decryptor().update(bytes(block)))


def expand(length: int, number: int, input_bytes: Octets) -> Octets:
    """Return 16 octets: input_bytes, zeros, the length and the number of the pass."""
    return input_bytes + [0] * (14 - len(input_bytes)) + [length, number]


def truncate(octets: Octets, count: int) -> Octets:
    """Return the first ``count`` octets."""
    return octets[:count]


def xor(left: Octets, right: Octets) -> Octets:
    """Return the exclusive or of two lists of equal length."""
    return [a ^ b for a, b in zip(left, right, strict=True)]


def clear_first_bits(octets: Octets) -> Octets:
    """Return the octets with the first four bits cleared."""
    return [octets[0] & 0x0F, *octets[1:]]


def clear_last_bits(octets: Octets) -> Octets:
    """Return the octets with the last four bits cleared."""
    return [*octets[:-1], octets[-1] & 0xF0]


def split(block: Octets) -> tuple[Octets, Octets]:
    """Return left and right, half_len octets each; each half of an odd block gets four bits of the middle octet."""
    half_len = (len(block) + 1) // 2
    left, right = block[:half_len], block[-half_len:]
    if len(block) % 2:
        left, right = clear_last_bits(left), clear_first_bits(right)
    return left, right


def join(left: Octets, right: Octets, plaintext_len: int) -> Octets:
    """Return left and right joined, without the zero bits between the halves of an odd block."""
    if plaintext_len % 2:
        return [*left[:-1], left[-1] | right[0], *right[1:]]
    return left + right


def four_pass_encrypt(key: bytes, plaintext: Octets) -> Octets:
    """Follow steps 2 to 12 of the algorithm description."""
    plaintext_len = len(plaintext)
    half_len, odd = (plaintext_len + 1) // 2, plaintext_len % 2 == 1
    left, right = split(plaintext)
    for number in (1, 2, 3, 4):
        if number in (1, 3):
            right = xor(right, truncate(aes_ecb(key, expand(plaintext_len, number, left)), half_len))
            right = clear_first_bits(right) if odd else right
        else:
            left = xor(left, truncate(aes_ecb(key, expand(plaintext_len, number, right)), half_len))
            left = clear_last_bits(left) if odd else left
    return join(left, right, plaintext_len)


def four_pass_decrypt(key: bytes, ciphertext: Octets, *, as_printed: bool = False) -> Octets:
    """Follow the decryption pseudocode through all four passes.

    as_printed: reproduce the misprint, which clears the first bits of left_1 instead of right_1.
    """
    plaintext_len = len(ciphertext)
    half_len, odd = (plaintext_len + 1) // 2, plaintext_len % 2 == 1
    left_2, right_2 = split(ciphertext)

    left_1 = xor(left_2, truncate(aes_ecb(key, expand(plaintext_len, 4, right_2)), half_len))
    left_1 = clear_last_bits(left_1) if odd else left_1

    right_1 = xor(right_2, truncate(aes_ecb(key, expand(plaintext_len, 3, left_1)), half_len))
    if odd and as_printed:
        left_1 = clear_first_bits(left_1)
    elif odd:
        right_1 = clear_first_bits(right_1)

    left_0 = xor(left_1, truncate(aes_ecb(key, expand(plaintext_len, 2, right_1)), half_len))
    left_0 = clear_last_bits(left_0) if odd else left_0

    right_0 = xor(right_1, truncate(aes_ecb(key, expand(plaintext_len, 1, left_0)), half_len))
    right_0 = clear_first_bits(right_0) if odd else right_0
    return join(left_0, right_0, plaintext_len)


def encode_block(key: bytes | None, server_id: bytes, nonce: bytes) -> bytes:
    """Return the octets after the first octet of a connection ID."""
    plaintext = list(server_id + nonce)
    if key is None:
        return bytes(plaintext)
    if len(plaintext) == 16:
        return bytes(aes_ecb(key, plaintext))
    return bytes(four_pass_encrypt(key, plaintext))


def decode_block(key: bytes | None, block: bytes) -> bytes:
    """Return server ID and nonce, concatenated. block: the octets after the first octet of a connection ID."""
    if key is None:
        return block
    if len(block) == 16:
        return bytes(aes_ecb_decrypt(key, list(block)))
    return bytes(four_pass_decrypt(key, list(block)))


def decode(key: bytes | None, server_id_length: int, nonce_length: int, cid: bytes) -> tuple[bytes, bytes] | None:
    """Return (server ID, nonce) of a connection ID, or None if it is too short. cid: includes the first octet."""
    block = cid[1 : 1 + server_id_length + nonce_length]
    if len(block) < server_id_length + nonce_length:
        return None
    plaintext = decode_block(key, block)
    return plaintext[:server_id_length], plaintext[server_id_length:]
