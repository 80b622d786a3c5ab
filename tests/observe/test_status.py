"""The names and values of the status, which programs read."""

import dataclasses
import json
from typing import Any

from qlb.observe.figures import Reading, SampleReading, XdpReading
from qlb.observe.status import build_status
from qlb.routing.totals import TOTALS


def as_read(reading: Reading) -> Any:
    """Return the status as a program receives it."""
    return json.loads(json.dumps(build_status(reading), allow_nan=False))


def test_the_contract(reading: Reading) -> None:
    """The status has every name of the contract with its value."""
    status = as_read(reading)
    assert status["version"] == "1.2.3"
    assert status["ready"] is True
    assert status["all_probes_failing"] is True
    assert status["probe_error"] == "EAGAIN"
    assert [row["finding"] for row in status["backends"]] == [None, "wrong key"]
    assert status["uptime_s"] == 12.346
    assert (status["plane"], status["mode"]) == ("asyncio", "proxy")
    assert status["listen"] == ["127.0.0.1:4433", "[::1]:4433"]
    assert status["config"] == {
        "generation": 3,
        "loaded_at": "2023-11-14T22:13:20.250+00:00",
        "last_reload_ok": False,
        "reload_problems": ["backend 'b' still gets packets"],
        "reload_retry_s": 58.5,
    }
    assert status["cid_configs"] == [
        {
            "config_id": 1,
            "algorithm": "single-pass",
            "state": "retiring",
            "fingerprint": "0123abcd",
            "packets": 12,
            "packets_per_second": 2.5,
            "last_seen_s": 1.0,
        }
    ]
    assert status["unconfigured_cids"] == [
        {"config_id": 4, "packets": 29, "last_seen_s": 2.0, "sustained": False, "configured_before": False}
    ]
    assert status["notices"][0] == {
        "severity": "critical",
        "level": "error",
        "kind": "worker_silent",
        "text": "worker 1 (process 124) has not completed a round of its loop for 7.0 s",
        "see": "operating.md#workers-that-hang",
    }
    assert status["rotation"] == {
        "phase": "retiring",
        "from_config_id": 1,
        "to_config_id": 2,
        "next_step": "wait",
    }
    assert [row["drained"] for row in status["backends"]] == [False, True]
    assert status["outcomes"] == dict(reading.outcomes)
    assert [(group["name"], group["packets"]) for group in status["outcome_groups"]] == [
        ("by ID", 14),
        ("new connection", 1),
        ("known flow", 2),
        ("dropped", 0),
    ]
    assert status["outcome_groups"][1]["outcomes"][0]["name"] == "fallback_too_short"
    assert status["balancers"] == ["http://192.0.2.7:9464"]
    assert status["workers"] == [
        {
            "index": 0,
            "slot": 0,
            "pid": 123,
            "alive": True,
            "heartbeat_age_s": 0.25,
            "up_to_date": True,
            "cpu_seconds": 61.235,
            "busy_share": 0.877,
            "resident_bytes": 47_185_920,
        },
        {
            "index": 1,
            "slot": 1,
            "pid": 124,
            "alive": False,
            "heartbeat_age_s": 7.0,
            "up_to_date": False,
            "cpu_seconds": 0.0,
            "busy_share": 0.0,
            "resident_bytes": None,
        },
    ]
    assert {name: status[name] for name in reading.totals} == reading.totals
    assert (status["bytes_forwarded"], status["bytes_returned"], status["new_flows"]) == (20_400, 10_200, 3)
    assert (status["received_packets"], status["return_dropped_packets"], status["worker_hangs"]) == (22, 7, 2)
    assert status["totals"][0] == {
        "name": "received_packets",
        "kind": "counter",
        "value": 22,
        "text": "Datagrams received from clients.",
    }
    assert [row["name"] for row in status["totals"]] == [one.name for one in TOTALS]
    assert status["xdp"] is None
    xdp = XdpReading(notices=("in0: detached",), detached_interfaces=1, refused_backends=2)
    assert build_status(dataclasses.replace(reading, xdp=xdp))["xdp"] == {
        "detached_interfaces": 1,
        "refused_backends": 2,
    }
    assert status["listeners"] == [
        {
            "listen": "127.0.0.1:4433",
            "kernel_dropped_packets": 17,
            "receive_buffer_bytes": 4096,
            "send_buffer_bytes": 8192,
            "strangers": 2,
        },
        {
            "listen": "[::1]:4433",
            "kernel_dropped_packets": 0,
            "receive_buffer_bytes": 4096,
            "send_buffer_bytes": 8192,
            "strangers": 0,
        },
    ]
    assert [row["shown_ids"] is None for row in status["backends"]] == [False, True]
    assert status["unknown_server_ids"] == [{"config_id": 1, "packets": 53, "last_seen_s": 3.0, "sustained": False}]
    assert status["send_errors"] == {"would_block": 13, "other": 0, "too_large": 31}


def test_a_backend(reading: Reading) -> None:
    """The row of a backend has exactly these fields."""
    assert as_read(reading)["backends"][0] == {
        "name": "a",
        "address": "192.0.2.1:443",
        "source": None,
        "state": "active",
        "drained": False,
        "leaving": False,
        "healthy": True,
        "detail": "it answers",
        "finding": None,
        "send_errors": {"too_large": 31},
        "too_large_bytes": 1452,
        "without_ids": False,
        "shown_ids": {"right": 5, "wrong": 0, "unroutable": 1},
        "unknown_ids": False,
        "excluded": None,
        "weight": 2,
        "packets_per_second": 49.988,
        "fallback_share": 0.75,
        "forwarded_packets": 13,
        "forwarded_by_route": {"cid": 10, "flow": 2, "fallback": 1},
        "forwarded_bytes": 15_600,
        "returned_packets": 9,
        "returned_bytes": 9_900,
        "new_flows": 3,
        "last_seen_s": 0.123,
    }


def test_sources(reading: Reading) -> None:
    """The status has one row for each source of backends."""
    agents: dict[str, object] = {"name": "agents", "kind": "dns", "up": True, "backends": 41, "last_success_s": 1.5}
    pool: dict[str, object] = {"name": "pool", "kind": "file", "up": False, "backends": 0, "last_success_s": None}
    assert as_read(reading)["discovery"] == [
        agents | {"error": None, "remarks": ["AAAA fails"]},
        pool | {"error": "gone", "remarks": []},
    ]


def test_never_seen_is_null(reading: Reading) -> None:
    """last_seen_s is null for a backend without packets."""
    assert as_read(reading)["backends"][1]["last_seen_s"] is None


def test_removed_backends_are_apart(reading: Reading) -> None:
    """Only configured backends are under ``backends``; the counts of the others are under ``removed_backends``."""
    status = as_read(reading)
    assert [row["name"] for row in status["backends"]] == ["a", "b:2"]
    assert [(row["name"], row["forwarded_packets"]) for row in status["removed_backends"]] == [("gone", 4)]


def test_an_empty_daemon(reading: Reading) -> None:
    """A daemon without workers and backends has a status too."""
    status = as_read(dataclasses.replace(reading, backends=(), cid_configs=(), workers=(), outcomes={}, listen=()))
    assert [status[name] for name in ("backends", "removed_backends", "cid_configs", "workers", "listen")] == [[]] * 5


def test_samples_have_the_form_that_explain_accepts(reading: Reading) -> None:
    """The last dropped datagram of each reason is in hexadecimal."""
    sample = SampleReading(octets=b"\xc0\0", length=1200, seen_s=1.23456)
    shown = as_read(dataclasses.replace(reading, samples={"truncated": sample}))["samples"]
    assert shown == {"truncated": {"octets": "c000", "length": 1200, "seen_s": 1.235}}
