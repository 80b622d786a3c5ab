"""Kinds of garbage: datagrams of every size, every first octet, every length of an ID, every truncation."""

import random
from collections.abc import Iterator
from typing import Final

from lab import datagrams

MAX_PAYLOAD_BYTES: Final = 65_507
_SIZES: Final = (*range(2_001), *range(2_001, MAX_PAYLOAD_BYTES, 1_999), MAX_PAYLOAD_BYTES)


def every_size(chance: random.Random) -> Iterator[bytes]:
    """Return random octets of every size up to 2,000, of some larger sizes, and of the largest that UDP allows."""
    return (chance.randbytes(size) for size in _SIZES)


def every_first_octet(chance: random.Random) -> Iterator[bytes]:
    """Return datagrams with all 256 first octets, each in six sizes."""
    return (bytes([first]) + chance.randbytes(size) for first in range(256) for size in (0, 1, 7, 20, 60, 1_199))


def every_id_length(chance: random.Random) -> Iterator[bytes]:
    """Return long headers with all 256 lengths of a destination ID, in a known, an unknown and no version."""
    versions = (datagrams.V1, datagrams.UNKNOWN_VERSION, 0)
    return (
        datagrams.long(chance.randbytes(length), chance.randbytes(8), chance.randbytes(20), version=version)
        for length in range(256)
        for version in versions
    )


def every_truncation(chance: random.Random) -> Iterator[bytes]:
    """Return every truncation of a long header with long IDs."""
    whole = datagrams.long(chance.randbytes(255), chance.randbytes(255))
    return (whole[:size] for size in range(len(whole)))


def every_config(chance: random.Random) -> Iterator[bytes]:
    """Return short headers under each config ID, from no further octet to slightly more than a whole ID."""
    return (
        datagrams.short(bytes([config_id << 5]) + chance.randbytes(size))
        for config_id in range(8)
        for size in range(24)
    )
