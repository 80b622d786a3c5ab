"""The oracle itself, against the draft's small examples of its helper functions."""

from lab import cid_oracle as oracle


def test_expand_as_the_draft_shows_it() -> None:
    """expand() joins input, zeros, length and pass into one AES block."""
    expanded = oracle.expand(0x06, 0x02, list(bytes.fromhex("aaba3c")))
    assert bytes(expanded).hex() == "aaba3c00000000000000000000000602"


def test_truncate_as_the_draft_shows_it() -> None:
    """truncate() returns the first octets."""
    octets = list(bytes.fromhex("2094842ca49256198c2deaa0ba53caa0"))
    assert bytes(oracle.truncate(octets, 4)).hex() == "2094842c"


def test_split_as_the_draft_shows_it() -> None:
    """An odd block is split in the middle of its middle octet, and join reverts it."""
    block = list(bytes.fromhex("7040b81b55ccf3"))
    left, right = oracle.split(block)
    assert (bytes(left).hex(), bytes(right).hex()) == ("7040b810", "0b55ccf3")
    assert oracle.join(left, right, 7) == block


def test_every_legal_pair_is_there() -> None:
    """The pairs have 1 to 15 octets of server ID and 4 to 18 of nonce, at most 19 together."""
    assert len(oracle.LEGAL_PAIRS) == sum(range(1, 16)) == 120
    assert {sum(pair) for pair in oracle.LEGAL_PAIRS} == set(range(5, 20))
