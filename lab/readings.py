"""A reading with a value in every field."""

import math

from qlb.observe.figures import (
    BackendReading,
    CidConfigReading,
    LatencyReading,
    ListenerReading,
    Reading,
    RotationReading,
    SourceReading,
    UnconfiguredReading,
    WorkerReading,
)
from qlb.routing.totals import TOTALS


def sample_reading() -> Reading:
    """Return a reading of two backends and a removed one, with consistent sums."""
    return Reading(
        version="1.2.3",
        taken_at=1_700_000_100.0,
        uptime_s=12.34567,
        plane="asyncio",
        mode="proxy",
        listen=("127.0.0.1:4433", "[::1]:4433"),
        listeners=(
            ListenerReading(
                listen="127.0.0.1:4433",
                kernel_dropped=17,
                receive_buffer_bytes=4096,
                send_buffer_bytes=8192,
                strangers=2,
            ),
            ListenerReading(listen="[::1]:4433", kernel_dropped=0, receive_buffer_bytes=4096, send_buffer_bytes=8192),
        ),
        ready=True,
        generation=3,
        loaded_at=1_700_000_000.25,
        last_reload_ok=False,
        reload_problems=("backend 'b' still gets packets",),
        reload_retry_s=58.5,
        backends=(
            BackendReading(
                name="a",
                address="192.0.2.1:443",
                state="active",
                healthy=True,
                detail="it answers",
                weight=2,
                forwarded={"cid": 10, "flow": 2, "fallback": 1},
                returned=9,
                last_seen_s=0.12345,
                packets_per_second=49.98765,
                fallback_share=0.75,
                send_errors={"too_large": 31},
                too_large_bytes=1452,
                forwarded_bytes=15_600,
                returned_bytes=9_900,
                new_flows=3,
            ),
            BackendReading(
                name="b:2",
                address="[2001:db8::2]:443",
                state="draining",
                healthy=False,
                detail="no answer",
                weight=1,
                forwarded={"cid": 0, "flow": 0, "fallback": 0},
                returned=0,
                last_seen_s=None,
                drained=True,
                finding="wrong key",
                excluded="it loops",
            ),
            BackendReading(
                name="gone",
                address="",
                state="removed",
                healthy=False,
                detail="",
                weight=0,
                forwarded={"cid": 4, "flow": 0, "fallback": 0},
                returned=3,
                forwarded_bytes=4_800,
                returned_bytes=300,
                last_seen_s=60.0,
            ),
        ),
        cid_configs=(
            CidConfigReading(
                config_id=1,
                algorithm="single-pass",
                packets=12,
                last_seen_s=1.0,
                state="retiring",
                fingerprint="0123abcd",
                packets_per_second=2.5,
            ),
        ),
        probes={"ok": 31, "failed": 37},
        probe_errors={"EAGAIN": 103},
        probe_error="EAGAIN",
        all_failing=True,
        unconfigured=(UnconfiguredReading(config_id=4, packets=29, last_seen_s=2.0),),
        discovery=(
            SourceReading(
                name="agents", kind="dns", up=True, backends=41, last_success_s=1.5, error="", remarks=("AAAA fails",)
            ),
            SourceReading(name="pool", kind="file", up=False, backends=0, last_success_s=None, error="gone"),
        ),
        rotation=RotationReading(phase="retiring", from_config_id=1, to_config_id=2, next_step="wait"),
        outcomes={"cid_config_0": 2, "cid_config_1": 12, "four_tuple_no_config": 2, "fallback_too_short": 1},
        totals={
            **dict.fromkeys((one.name for one in TOTALS), 1),
            "received_packets": 22,
            "received_bytes": 22_000,
            "bytes_forwarded": 20_400,
            "bytes_returned": 10_200,
            "new_flows": 3,
            "return_dropped_packets": 7,
            "return_overflowed_packets": 11,
            "icmp_forwarded": 19,
            "icmp_sent": 23,
            "sessions": 8,
            "sessions_max": 131_072,
            "sessions_evicted": 6,
            "sessions_protected": 2,
            "sessions_reopened": 43,
            "return_pauses": 47,
            "worker_restarts": 4,
            "worker_hangs": 2,
        },
        dropped={"empty": 5},
        unroutable={"no_config": 2, "too_short": 1},
        return_send_errors={"would_block": 13, "other": 0},
        latency=(
            LatencyReading(direction="backend", buckets=((0.00001, 5), (0.1, 8), (math.inf, 9)), sum_s=1.5),
            LatencyReading(direction="client", buckets=((0.00001, 0), (0.1, 2), (math.inf, 2)), sum_s=0.25),
        ),
        workers=(
            WorkerReading(
                index=0, pid=123, alive=True, heartbeat_age_s=0.25, cpu_s=61.23456, resident_bytes=47_185_920
            ),
            WorkerReading(index=1, pid=124, alive=False, heartbeat_age_s=7.0, up_to_date=False),
        ),
    )
