"""A daemon's status as tables of text, for ``qlb status`` and ``qlb top``."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from shutil import get_terminal_size
from types import MappingProxyType
from typing import Any, Final

import click

from qlb.cli.drawing import Column, Row, Table, in_text
from qlb.observe.streams import escaped

Status = Mapping[str, Any]
"""The answer of /status."""

SEVERITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"critical": "red", "warning": "yellow", "info": "bright_black"}
)
"""Severity of a notice → its colour."""
_EARLIER: Final[Mapping[str, str]] = MappingProxyType({"error": "critical"})
"""Level of a notice → severity, for the daemon of an earlier release; the others have the same name."""
_MIB: Final = 1 << 20


def readable(answer: Any) -> Any:  # noqa: ANN401 (any part of a JSON document)
    """Return an answer of /status whose texts contain no control characters: servers and DNS write a part of them."""
    if isinstance(answer, str):
        return escaped(answer)
    if isinstance(answer, list):
        return [readable(one) for one in answer]
    return {name: readable(value) for name, value in answer.items()} if isinstance(answer, dict) else answer


def headline(status: Status) -> str:
    """Return version, plane, mode, generation, uptime and addresses in one line."""
    return (
        f"qlb {status['version']}, {'ready' if status['ready'] else 'not ready'}, plane {status['plane']}, mode "
        f"{status['mode']}, generation {status['config']['generation']}, up {status['uptime_s']:.0f} s, listening on "
        f"{', '.join(status['listen'])}"
    )


def notices(status: Status) -> Sequence[Mapping[str, str]]:
    """Return the daemon's notices with their severity, the most severe first; none of an earlier release."""
    found: Sequence[Mapping[str, str]] = status.get("notices", ())
    return [{"severity": _EARLIER.get(row["level"], row["level"]), **row} for row in found]


def backends(status: Status) -> Table:
    """Return the table of backends. Below each one that is not up are the words of the last probe."""
    rows = [
        Row(
            (
                row["name"],
                row["address"],
                "excluded" if row["excluded"] else "drained" if row["drained"] else row["state"],
                "up" if row["healthy"] else "down",
                f"{row['packets_per_second']:,.0f}",
                f"{row['forwarded_packets']:,}",
                ago(row["last_seen_s"]),
                f"{100 * row['fallback_share']:.1f} %",
            ),
            trouble(row),
        )
        for row in status["backends"]
    ]
    columns = (
        Column("BACKEND"),
        Column("ADDRESS", rank=4),
        Column("STATE"),
        Column("HEALTH"),
        Column("PER SECOND", is_number=True),
        Column("PACKETS", is_number=True, rank=2),
        Column("LAST PACKET", rank=1),
        Column("NEW CONNECTIONS", is_number=True, rank=3),
    )
    return Table(columns, rows)


def trouble(backend: Mapping[str, Any]) -> str:
    """Return why a backend gets no packets or is down, and what is wrong with its IDs; "" if nothing is wrong."""
    detail = "" if backend["healthy"] else backend["detail"]
    found = (backend["excluded"], detail, backend["finding"])
    return "; ".join(dict.fromkeys(text for text in found if text))


def cid_configs(status: Status) -> Table:
    """Return the CID configs."""
    rows = [
        Row(
            (
                str(row["config_id"]),
                row["state"],
                row["algorithm"],
                row["fingerprint"],
                f"{row['packets_per_second']:,.0f}",
                f"{row['packets']:,}",
                ago(row["last_seen_s"]),
            )
        )
        for row in status["cid_configs"]
    ]
    columns = (
        Column("CONFIG ID"),
        Column("STATE"),
        Column("ALGORITHM", rank=3),
        Column("FINGERPRINT", rank=2),
        Column("PER SECOND", is_number=True),
        Column("PACKETS", is_number=True),
        Column("LAST PACKET", rank=1),
    )
    return Table(columns, rows)


def workers(status: Status) -> Table:
    """Return the workers with the share of a core that each uses; without rows if the daemon does not report it."""
    rows = [
        Row(
            (
                str(row["index"]),
                str(row["pid"]),
                "alive" if row["alive"] else "dead",
                f"{100 * row['busy_share']:.0f} %",
                f"{row['resident_bytes'] / _MIB:,.0f} MiB" if row["resident_bytes"] else "",
            )
        )
        for row in status["workers"]
        if "busy_share" in row
    ]
    columns = (
        Column("WORKER"),
        Column("PROCESS", is_number=True),
        Column("STATE"),
        Column("BUSY", is_number=True),
        Column("MEMORY", is_number=True),
    )
    return Table(columns, rows)


def outcomes(status: Status, before: Status | None = None, *, most: int | None = None) -> Table:
    """Return the outcomes that have packets, in groups; below a drop, the last such datagram for ``qlb explain``.

    before: an earlier status, for rates. most: only so many outcomes, those that are now the most frequent.
    """
    seconds = status["uptime_s"] - before["uptime_s"] if before is not None else 0.0
    then = before["outcomes"] if before is not None else {}
    groups = [group for group in status.get("outcome_groups", ()) if group["outcomes"]]
    every = [one for group in groups for one in group["outcomes"]]
    frequent = sorted(every, key=lambda one: (then.get(one["name"], 0) - one["packets"], -one["packets"]))[:most]

    def cells(name: str, packets: int, earlier: int, text: str) -> tuple[str, ...]:
        rate = f"{max(packets - earlier, 0) / seconds:,.0f}" if seconds > 0 else ""
        return (name, f"{packets:,}", *(() if before is None else (rate,)), text)

    rows = []
    for group in groups:
        earlier = sum(then.get(one["name"], 0) for one in group["outcomes"])
        rows.append(Row(cells(group["name"], group["packets"], earlier, group["text"])))
        rows += [
            Row(
                cells(f"  {one['name']}", one["packets"], then.get(one["name"], 0), one["text"]),
                _sample(status, one["name"]) if most is None else "",
            )
            for one in group["outcomes"]
            if one in frequent
        ]
    rate = () if before is None else (Column("PER SECOND", is_number=True),)
    columns = (Column("OUTCOME"), Column("PACKETS", is_number=True), *rate, Column("MEANING", rank=1))
    return Table(columns, rows)


def _sample(status: Status, outcome: str) -> str:
    found = status.get("samples", {}).get(outcome.removeprefix("drop_"))
    return f"the last one, {found['length']} octets, {ago(found['seen_s'])}: {found['octets']}" if found else ""


def print_status(status: Status) -> None:
    """Print the headline, the notices and the tables, in colours and as wide as the terminal if there is one."""
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    tables = (backends(status), cid_configs(status), outcomes(status), workers(status))
    parts = [
        [headline(status), *_in_colour(notices(status))],
        *(in_text(table, width) for table in tables if table.rows),
    ]
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo("\n\n".join("\n".join(part) for part in parts), color=colour)


def _in_colour(found: Iterable[Mapping[str, str]]) -> Iterator[str]:
    for row in found:
        see = f"; see docs/{row['see']}" if "see" in row else ""
        yield click.style(f"{row['severity']}: {row['text']}{see}", fg=SEVERITIES.get(row["severity"]))


def ago(seconds: float | None) -> str:
    """Return a time in the past as text."""
    if seconds is None:
        return "never"
    return f"{seconds:.1f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"
