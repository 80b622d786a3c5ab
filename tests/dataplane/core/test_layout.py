"""What C and Python write down separately is the same: layouts, sizes, constants, outcomes."""

import sys
from types import ModuleType
from typing import Final

import pytest

from qlb.cid import params
from qlb.dataplane.batch.plane import ENDPOINT
from qlb.dataplane.core import hash_table, key_schedule, table
from qlb.dataplane.xdp import layout as xdp
from qlb.routing import backends, counters, flows, maglev, outcomes
from qlb.wire import invariants

LAYOUTS: Final = (
    *(table.HEAD, table.CONFIG, table.SERVER),
    ENDPOINT,
    *(xdp.SETTINGS, xdp.GENERATION, xdp.DESTINATION, xdp.BACKEND, xdp.SERVICE, xdp.QUESTION, xdp.EXIT_KEY, xdp.EXIT),
)

CONSTANTS: Final = {
    "QLB_TABLE_MAGIC": table.MAGIC,
    "QLB_TABLE_VERSION": table.VERSION,
    **{f"QLB_MODE_{mode.upper()}": number for number, mode in enumerate(xdp.MODES)},
    "QLB_MEMO_PAGES": xdp.MEMO_PAGES,
    "QLB_TABLE_CONFIGS": table.CONFIGS,
    "QLB_SERVER_PROBES": hash_table.PROBES,
    "QLB_MAX_SERVER_SLOTS": hash_table.MAX_SLOTS,
    "QLB_NOBODY": table.NOBODY,
    "QLB_PRESENT": table.PRESENT,
    "QLB_HEALTHY": table.HEALTHY,
    "QLB_ACCEPTS_NEW": table.ACCEPTS_NEW,
    **{f"QLB_{name.upper()}": number for name, number in table.ALGORITHMS.items()},
    "QLB_AES_SCHEDULE_BYTES": key_schedule.SCHEDULE_BYTES,
    "QLB_MAX_PLAINTEXT_BYTES": params.MAX_PLAINTEXT_BYTES,
    "QLB_RESERVED_CONFIG_ID": params.RESERVED_CONFIG_ID,
    "QLB_MAX_BACKENDS": backends.MAX_BACKENDS,
    "QLB_SHORT": invariants.SHORT,
    "QLB_LONG": invariants.LONG,
    "QLB_EMPTY": invariants.EMPTY,
    "QLB_TRUNCATED": invariants.TRUNCATED,
    "QLB_MAX_CID_BYTES": invariants.MAX_ANY_CID_BYTES,
    "QLB_MIN_DESTINATION_ID_BYTES": flows.MIN_DESTINATION_ID_BYTES,
    "QLB_FLOW_ID_BYTES": flows.KEPT_ID_BYTES,
    "QLB_CONFIGS": outcomes.CONFIG_IDS,
    "QLB_REASONS": len(outcomes.REASONS),
    "QLB_STEPS": len(outcomes.STEPS),
    "QLB_OUTCOMES": len(outcomes.OUTCOMES),
    **{f"QLB_{reason.upper()}": number for number, reason in enumerate(outcomes.REASONS)},
    **{f"QLB_BY_{step.upper()}": number for number, step in enumerate(outcomes.STEPS)},
    "QLB_SLOT_PACKETS_RECEIVED": counters.PACKETS_RECEIVED,
    "QLB_SLOT_BYTES_RECEIVED": counters.BYTES_RECEIVED,
    "QLB_SLOT_SESSIONS": counters.SESSIONS,
    "QLB_SLOT_SESSIONS_EVICTED": counters.SESSIONS_EVICTED,
    "QLB_SLOT_RETURN_DROPPED": counters.RETURN_DROPPED,
    "QLB_SLOT_RETURN_OVERFLOWED": counters.RETURN_OVERFLOWED,
    "QLB_SLOT_SEND_ERRORS": counters.SEND_ERRORS,
    "QLB_SEND_ERROR_KINDS": len(counters.SEND_ERROR_KINDS),
    **{f"QLB_SEND_ERROR_{kind.upper()}": number for number, kind in enumerate(counters.SEND_ERROR_KINDS)},
    "QLB_SLOT_SESSIONS_REOPENED": counters.SESSIONS_REOPENED,
    "QLB_SLOT_SESSIONS_PROTECTED": counters.SESSIONS_PROTECTED,
    "QLB_SLOT_RETURN_PAUSES": counters.RETURN_PAUSES,
    "QLB_SLOT_HEARTBEAT_MS": counters.HEARTBEAT_MS,
    "QLB_BACKEND_TOO_LARGE_BYTES": counters.TOO_LARGE_BYTES,
    "QLB_BACKEND_SEND_ERRORS": counters.BACKEND_SEND_ERRORS,
    "QLB_SLOT_RETURN_SEND_ERRORS": counters.RETURN_SEND_ERRORS,
    "QLB_SLOT_ICMP_FORWARDED": counters.ICMP_FORWARDED,
    "QLB_SLOT_ICMP_SENT": counters.ICMP_SENT,
    "QLB_SLOT_OUTCOME": counters.OUTCOME,
    "QLB_SLOT_CONFIG_LAST_SEEN_MS": counters.CONFIG_LAST_SEEN_MS,
    "QLB_SLOT_UNCONFIGURED": counters.UNCONFIGURED,
    "QLB_SLOT_UNCONFIGURED_LAST_SEEN_MS": counters.UNCONFIGURED_LAST_SEEN_MS,
    "QLB_SLOT_BACKEND": counters.BACKEND,
    "QLB_BACKEND_SLOTS": counters.BACKEND_SLOTS,
    "QLB_BACKEND_RETURNED": counters.RETURNED,
    "QLB_BACKEND_LAST_SEEN_MS": counters.LAST_SEEN_MS,
    "QLB_SLOT_SAMPLE": counters.SAMPLE,
    "QLB_SAMPLE_SLOTS": counters.SAMPLE_SLOTS,
    "QLB_SAMPLE_BYTES": counters.SAMPLE_BYTES,
    "QLB_COUNTER_SLOTS": counters.SLOTS,
    **{f"QLB_{o.name.upper()}": number for number, o in enumerate(outcomes.OUTCOMES) if o.route == "drop"},
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_structs(core: ModuleType, layout: table.Layout) -> None:
    """Size, every field and every offset; a multiple of 8 octets."""
    compiled = core.layout()
    prefix = f"{layout.name}."
    assert compiled[layout.name] == layout.size_bytes
    assert layout.size_bytes % 8 == 0
    assert {name.removeprefix(prefix): at for name, at in compiled.items() if name.startswith(prefix)} == layout.offsets


def test_constants(core: ModuleType) -> None:
    """Every constant that C exports stands in Python too, with the same value."""
    exported = {name: value for name, value in core.layout().items() if name.startswith("QLB_")}
    assert exported.pop("QLB_MAX_RING_SLOTS") >= max(maglev.RING_SIZES)
    assert exported == CONSTANTS


def test_flow_keys_have_no_gaps(core: ModuleType) -> None:
    """Keys are compared octet by octet: their structs have just the octets that are written."""
    compiled = core.layout()
    assert compiled["qlb_four_tuple"] == 16 + 16 + 4 + 4
    assert compiled["qlb_flow_id"] == flows.KEPT_ID_BYTES + 8
    assert compiled["qlb_flow_source"] == compiled["qlb_four_tuple"] + compiled["qlb_flow_id"]
    assert compiled["qlb_flow"] == compiled["qlb_flow_source"] + 24


def test_the_magic_number_tells_the_byte_order() -> None:
    """On this machine it reads as it does in C."""
    assert table.MAGIC.to_bytes(4, sys.byteorder) == (b"QLBT" if sys.byteorder == "little" else b"TBLQ")
