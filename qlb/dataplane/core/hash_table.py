"""Hash tables that the C core looks things up in: open addressing, and so few collisions that a lookup is bounded.

Filled here, off the packet path: a table grows, with another seed, until no lookup visits more than PROBES slots.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from qlb.errors import QlbError

PROBES: Final = 8
"""Slots that a lookup may visit."""
MAX_SLOTS: Final = 1 << 24

_MIN_SLOTS: Final = 8
_WORD: Final = (1 << 64) - 1
_SEED_STEP: Final = 0x9E3779B97F4A7C15  # 2⁶⁴ ÷ the golden ratio: odd, and its bits look like chance


class Entry(NamedTuple):
    """A key of 16 octets, as struct qlb_block reads them, and what it stands for."""

    low: int
    high: int
    value: int


def place(entries: Sequence[Entry]) -> tuple[list[Entry | None], int]:
    """Return the slots, a power of two, of a table in which every entry is found within PROBES, and its seed.

    Raises QlbError where there is none of MAX_SLOTS (never, by chance).
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
    # Robin Hood: whoever is farther from home takes the slot, which keeps the worst walk short.
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
    """Return where a lookup begins, 32 bits; the twin of qlb_server_hash() in core/table.h."""
    number = low ^ high * seed & _WORD
    number = (number ^ number >> 32) * seed & _WORD
    return ((number ^ number >> 32) * seed & _WORD) >> 32
