"""A daemon's status as tables of text, for ``qlb status`` and ``qlb top``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Status = Mapping[str, Any]
"""The answer of /status."""


class Table(NamedTuple):
    """One table. numbers: the columns that are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: tuple[int, ...] = ()


def headline(status: Status) -> str:
    """Return version, plane, mode, generation, uptime and addresses in one line."""
    return (
        f"qlb {status['version']}, {'ready' if status['ready'] else 'not ready'}, plane {status['plane']}, mode "
        f"{status['mode']}, generation {status['config']['generation']}, up {status['uptime_s']:.0f} s, listening on "
        f"{', '.join(status['listen'])}"
    )


def notices(status: Status) -> Sequence[Mapping[str, str]]:
    """Return the daemon's notices (level, kind, text), the most severe first; none of an earlier release."""
    found: Sequence[Mapping[str, str]] = status.get("notices", ())
    return found


def summary(status: Status) -> list[str]:
    """Return the headline and the texts of the notices, one line each."""
    return [headline(status), *(notice["text"] for notice in notices(status))]


def backends(status: Status) -> Table:
    """Return the table of backends."""
    rows = [
        (
            row["name"],
            row["address"],
            "excluded" if row["excluded"] else "drained" if row["drained"] else row["state"],
            "up" if row["healthy"] else "down",
            f"{row['packets_per_second']:,.0f}",
            f"{row['forwarded_packets']:,}",
            ago(row["last_seen_s"]),
            f"{100 * row['fallback_share']:.1f} %",
        )
        for row in status["backends"]
    ]
    columns = ("BACKEND", "ADDRESS", "STATE", "HEALTH", "PER SECOND", "PACKETS", "LAST PACKET", "NEW CONNECTIONS")
    return Table("Backends", columns, rows, (4, 5, 7))


def cid_configs(status: Status) -> Table:
    """Return the CID configs."""
    rows = [
        (
            str(row["config_id"]),
            row["state"],
            row["algorithm"],
            row["fingerprint"],
            f"{row['packets_per_second']:,.0f}",
            f"{row['packets']:,}",
            ago(row["last_seen_s"]),
        )
        for row in status["cid_configs"]
    ]
    columns = ("CONFIG ID", "STATE", "ALGORITHM", "FINGERPRINT", "PER SECOND", "PACKETS", "LAST PACKET")
    return Table("CID configs", columns, rows, (4, 5))


def outcomes(status: Status, before: Status | None = None) -> Table:
    """Return the outcomes with packets, the most frequent first. before: an earlier status, for rates."""
    seconds = status["uptime_s"] - before["uptime_s"] if before is not None else 0.0
    rows = []
    for name, packets in sorted(status["outcomes"].items(), key=lambda item: -item[1]):
        if packets:
            rate = (packets - before["outcomes"].get(name, 0)) / seconds if before is not None and seconds > 0 else None
            rows.append((name, f"{packets:,}", "" if rate is None else f"{max(rate, 0):,.0f}"))
    columns = ("OUTCOME", "PACKETS", "PER SECOND")
    if before is None:
        return Table("Outcomes", columns[:2], [row[:2] for row in rows], (1,))
    return Table("Outcomes", columns, rows, (1, 2))


def in_text(table: Table) -> list[str]:
    """Return a table as aligned lines."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    return [
        "  ".join(
            cell.rjust(width) if column in table.numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def ago(seconds: float | None) -> str:
    """Return a time in the past as text."""
    if seconds is None:
        return "never"
    return f"{seconds:.1f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"
