"""Hash tables for lookups by the C core: open addressing, and a bound on the slots that a lookup visits.

place() fills them, off the packet path. It enlarges a table and changes the seed until no lookup visits more than
PROBES slots.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from qlb.errors import QlbError

PROBES: Final = 8
"""Slots that a lookup visits at most."""
MAX_SLOTS: Final = 1 << 24

_MIN_SLOTS: Final = 8
_WORD: Final = (1 << 64) - 1
_SEED_STEP: Final = 0x9E3779B97F4A7C15  # 2⁶⁴ ÷ the golden ratio: odd, with bits that look random


class Entry(NamedTuple):
    """A key of 16 octets, in the order of struct qlb_block, and its value."""

    low: int
    high: int
    value: int


def place(entries: Sequence[Entry]) -> tuple[list[Entry | None], int]:
    """Return the slots of a table, a power of two, and its seed. PROBES slots are enough to find each entry.

    Raises QlbError if no table of up to MAX_SLOTS is enough, which does not happen by chance.
    """
    size, seed = _MIN_SLOTS, _SEED_STEP
    while size < 2 * len(entries):
        size *= 2
    while size <= MAX_SLOTS:
        slots = _fill(entries, size, seed)
        if slots is not None:
            return slots, seed
        size, seed = size * 2, (seed + 2 * _SEED_STEP) & _WORD
    raise QlbError(f"{len(entries)} entries do not fit into a table of {MAX_SLOTS} slots")


def _fill(entries: Sequence[Entry], size: int, seed: int) -> list[Entry | None] | None:
    # Robin Hood hashing: the entry that is farther from its home gets the slot, so the longest walk stays short.
    slots: list[Entry | None] = [None] * size
    away = [0] * size  # of the entry in a slot: its distance from home
    mask = size - 1
    for entry in entries:
        walking, slot, distance = entry, hash_of(seed, entry.low, entry.high) & mask, 0
        while (resident := slots[slot]) is not None:
            if away[slot] < distance:
                slots[slot], away[slot], walking, distance = walking, distance, resident, away[slot]
            slot, distance = (slot + 1) & mask, distance + 1
            if distance >= PROBES:
                return None
        slots[slot], away[slot] = walking, distance
    return slots


def hash_of(seed: int, low: int, high: int) -> int:
    """Return the hash of 32 bits that selects a lookup's first slot; the twin of qlb_server_hash() in core/table.h."""
    number = low ^ high * seed & _WORD
    number = (number ^ number >> 32) * seed & _WORD
    return ((number ^ number >> 32) * seed & _WORD) >> 32
