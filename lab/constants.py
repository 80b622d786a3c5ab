"""``make generate``: write the constants that C shares with Python, and the checks of the struct layouts.

Python defines the constants and the layouts. core/constants.h repeats the constants for C. batch/layout.c makes the
compiler compare each C struct with its layout. Both files are committed, so that a build needs no Python package.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from qlb.cid import params
from qlb.dataplane.batch.plane import ENDPOINT
from qlb.dataplane.core import hash_table, key_schedule, table
from qlb.dataplane.xdp import exits
from qlb.dataplane.xdp import layout as xdp
from qlb.routing import backends, counters, flows, maglev, outcomes
from qlb.wire import invariants, versions

PLANES: Final = Path(__file__).resolve().parents[1] / "qlb" / "dataplane"
_LAST_DECIMAL: Final = 1 << 24
_GENERATED: Final = "/* Generated from Python by `make generate` (lab/constants.py): do not edit."


class Group(NamedTuple):
    """Constants of one kind. source: the Python module that explains them. suffix: of each number in C.

    A tuple becomes the initialiser of an array.
    """

    title: str
    source: str
    values: Mapping[str, int | tuple[int, ...]]
    suffix: str = ""


def _numbered(prefix: str, names: tuple[str, ...]) -> dict[str, int]:
    return {f"{prefix}{name.upper()}": number for number, name in enumerate(names)}


_SLOTS: Final = (
    *("PACKETS_RECEIVED", "BYTES_RECEIVED", "SESSIONS", "SESSIONS_EVICTED", "RETURN_DROPPED", "RETURN_OVERFLOWED"),
    *("SEND_ERRORS", "SESSIONS_REOPENED", "SESSIONS_PROTECTED", "RETURN_PAUSES", "ICMP_FORWARDED", "ICMP_SENT"),
    *("HEARTBEAT_MS", "OUTCOME", "CONFIG_LAST_SEEN_MS", "UNCONFIGURED", "UNCONFIGURED_LAST_SEEN_MS", "UNKNOWN"),
    *("UNKNOWN_LAST_SEEN_MS", "WRONG_IDS", "BACKEND"),
)

GROUPS: Final = (
    Group(
        "Forms of a packet, and lengths of connection IDs",
        "qlb/wire/invariants.py, qlb/wire/versions.py, qlb/cid/params.py",
        {
            "QLB_SHORT": invariants.SHORT,
            "QLB_LONG": invariants.LONG,
            "QLB_EMPTY": invariants.EMPTY,
            "QLB_TRUNCATED": invariants.TRUNCATED,
            "QLB_MAX_CID_BYTES": invariants.MAX_ANY_CID_BYTES,
            "QLB_MAX_PLAINTEXT_BYTES": params.MAX_PLAINTEXT_BYTES,
            "QLB_RESERVED_CONFIG_ID": params.RESERVED_CONFIG_ID,
            "QLB_VERSION_2": versions.V2,
        },
    ),
    Group(
        "Keys of the flow tables",
        "qlb/routing/flows.py",
        {
            "QLB_MIN_DESTINATION_ID_BYTES": flows.MIN_DESTINATION_ID_BYTES,
            "QLB_FLOW_ID_BYTES": flows.KEPT_ID_BYTES,
        },
    ),
    Group(
        "Reasons for an unroutable ID, forwarding steps, and outcomes",
        "qlb/routing/outcomes.py",
        {
            "QLB_CONFIGS": outcomes.CONFIG_IDS,
            **_numbered("QLB_", outcomes.REASONS),
            "QLB_REASONS": len(outcomes.REASONS),
            **_numbered("QLB_BY_", outcomes.STEPS),
            "QLB_STEPS": len(outcomes.STEPS),
            **{f"QLB_{o.name.upper()}": n for n, o in enumerate(outcomes.OUTCOMES) if o.route == "drop"},
            "QLB_OUTCOMES": len(outcomes.OUTCOMES),
        },
    ),
    Group(
        "The table",
        "qlb/dataplane/core/table.py, hash_table.py",
        {
            "QLB_TABLE_MAGIC": table.MAGIC,
            "QLB_TABLE_VERSION": table.VERSION,
            "QLB_TABLE_CONFIGS": table.CONFIGS,
            "QLB_SERVER_PROBES": hash_table.PROBES,
            "QLB_MAX_SERVER_SLOTS": hash_table.MAX_SLOTS,
            "QLB_NO_BACKEND": table.NO_BACKEND,
            "QLB_MAX_BACKENDS": backends.MAX_BACKENDS,
            "QLB_PRESENT": table.PRESENT,
            "QLB_HEALTHY": table.HEALTHY,
            "QLB_ACCEPTS_NEW": table.ACCEPTS_NEW,
        },
        "u",
    ),
    Group(
        "Algorithms of a CID config, and key schedules",
        "qlb/dataplane/core/table.py, key_schedule.py",
        {
            **{f"QLB_{name.upper()}": number for name, number in table.ALGORITHMS.items()},
            "QLB_AES_ROUNDS": key_schedule.ROUNDS,
            "QLB_AES_SCHEDULE_BYTES": key_schedule.SCHEDULE_BYTES,
        },
    ),
    Group(
        "Slots of the counters",
        "qlb/routing/counters.py",
        {
            **{f"QLB_SLOT_{name}": getattr(counters, name) for name in _SLOTS},
            "QLB_BACKEND_SLOTS": counters.BACKEND_SLOTS,
            "QLB_BACKEND_RETURNED": counters.RETURNED,
            "QLB_BACKEND_LAST_SEEN_MS": counters.LAST_SEEN_MS,
            "QLB_BACKEND_TOO_LARGE_BYTES": counters.TOO_LARGE_BYTES,
            "QLB_BACKEND_FORWARDED_BYTES": counters.FORWARDED_BYTES,
            "QLB_BACKEND_RETURNED_BYTES": counters.RETURNED_BYTES,
            "QLB_BACKEND_NEW_FLOWS": counters.NEW_FLOWS,
            "QLB_BACKEND_SEND_ERRORS": counters.BACKEND_SEND_ERRORS,
            "QLB_SAMPLE_SLOTS": counters.SAMPLE_SLOTS,
            "QLB_SAMPLE_BYTES": counters.SAMPLE_BYTES,
            **_numbered("QLB_SEND_ERROR_", counters.SEND_ERROR_KINDS),
            "QLB_SEND_ERROR_KINDS": len(counters.SEND_ERROR_KINDS),
        },
    ),
    Group(
        "Slots after those of the backends",
        "qlb/routing/counters.py",
        {
            "QLB_SLOT_SAMPLE": counters.SAMPLE,
            "QLB_SLOT_RETURN_SEND_ERRORS": counters.RETURN_SEND_ERRORS,
            "QLB_SLOT_LATENCY": counters.LATENCY,
            "QLB_LATENCY_BUCKETS": counters.LATENCY_BUCKETS,
            "QLB_LATENCY_SLOTS": counters.LATENCY_SLOTS,
            "QLB_LATENCY_EVERY": counters.LATENCY_EVERY,
            "QLB_MAX_LATENCY_NS": counters.MAX_LATENCY_NS,
            **_numbered("QLB_LATENCY_TO_", counters.DIRECTIONS),
            "QLB_LATENCY_BOUNDS_US": counters.LATENCY_BOUNDS_US,
            "QLB_SLOT_SHOWN": counters.SHOWN,
            "QLB_SHOWN_SLOTS": counters.SHOWN_SLOTS,
            **_numbered("QLB_SHOWN_", counters.SHOWN_KINDS),
            "QLB_SHOWN_UNKNOWN": counters.SHOWN_UNKNOWN,
            "QLB_SHOWN_LENGTH": counters.SHOWN_LENGTH,
            "QLB_SHOWN_ID": counters.SHOWN_ID,
            "QLB_SHOWN_ID_BYTES": counters.SHOWN_ID_BYTES,
            "QLB_COUNTER_SLOTS": counters.SLOTS,
        },
        "u",
    ),
    Group(
        "The XDP plane",
        "qlb/dataplane/xdp/layout.py, exits.py",
        {
            **_numbered("QLB_MODE_", xdp.MODES),
            "QLB_MEMO_PAGES": xdp.MEMO_PAGES,
            "QLB_MAX_EXITS": exits.MAX_EXITS,
        },
        "u",
    ),
)

LAYOUTS: Final = (
    *(table.HEAD, table.CONFIG, table.SERVER),
    ENDPOINT,
    *(xdp.SETTINGS, xdp.GENERATION, xdp.DESTINATION, xdp.BACKEND, xdp.SERVICE, xdp.QUESTION, xdp.EXIT_KEY, xdp.EXIT),
)
"""Structs that Python packs or unpacks."""

_FOUR_TUPLE_BYTES: Final = 16 + 16 + 4 + 4
_FLOW_ID_BYTES: Final = flows.KEPT_ID_BYTES + 8
_FLOW_KEYS: Final = {
    "qlb_four_tuple": _FOUR_TUPLE_BYTES,
    "qlb_flow_id": _FLOW_ID_BYTES,
    "qlb_flow_source": _FOUR_TUPLE_BYTES + _FLOW_ID_BYTES,
    "qlb_flow": _FOUR_TUPLE_BYTES + _FLOW_ID_BYTES + 24,
}
"""Structs that C compares octet by octet, so they contain no padding: the sums of their fields' sizes."""


def constants_header() -> str:
    """Return the text of core/constants.h."""
    return "\n".join(
        (
            _GENERATED,
            " *",
            " * The named Python modules explain each constant.",
            " */",
            "#ifndef QLB_CORE_CONSTANTS_H",
            "#define QLB_CORE_CONSTANTS_H",
            *(line for group in GROUPS for line in _definitions(group)),
            "",
            "#endif",
            "",
        )
    )


def _definitions(group: Group) -> Iterator[str]:
    yield ""
    yield f"/* {group.title} ({group.source}). */"
    for name, value in group.values.items():
        if isinstance(value, tuple):
            yield f"#define {name} \\"
            yield f"    {{{', '.join(map(str, value))}}}"
        else:
            yield f"#define {name} {value if value <= _LAST_DECIMAL else hex(value)}{group.suffix}"


def layout_checks() -> str:
    """Return the text of batch/layout.c."""
    return "\n".join(
        (
            _GENERATED,
            " *",
            " * The compiler stops here if a struct differs from the layout that Python packs and unpacks.",
            " */",
            "#include <stddef.h>",
            "",
            '#include "../core/route.h"',
            '#include "../xdp/layout.h"',
            '#include "addresses.h"',
            '#include "flat.h"',
            '#include "flows.h"',
            "",
            *(line for layout in LAYOUTS for line in _checks(layout)),
            "/* Keys that are compared octet by octet have no padding. */",
            *(_size_check(name, size_bytes) for name, size_bytes in _FLOW_KEYS.items()),
            "",
            f'_Static_assert(QLB_MAX_RING_SLOTS >= {max(maglev.RING_SIZES)}, "the largest ring fits");',
            "",
        )
    )


def _checks(layout: table.Layout) -> Iterator[str]:
    yield _size_check(layout.name, layout.size_bytes)
    for field, offset in layout.offsets.items():
        yield f'_Static_assert(offsetof(struct {layout.name}, {field}) == {offset}, "{layout.name}.{field}");'
    yield ""


def _size_check(name: str, size_bytes: int) -> str:
    return f'_Static_assert(sizeof(struct {name}) == {size_bytes}, "{name}");'


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    return {PLANES / "core" / "constants.h": constants_header(), PLANES / "batch" / "layout.c": layout_checks()}


def main() -> None:
    """Write the generated files."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
