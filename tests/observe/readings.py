"""A reading with something in every field."""

from qlb.observe.reading import BackendReading, CidConfigReading, ListenerReading, Reading, WorkerReading


def sample_reading() -> Reading:
    """Return two backends and one that has left; its sums hold."""
    return Reading(
        version="1.2.3",
        uptime_s=12.34567,
        plane="asyncio",
        mode="proxy",
        listen=("127.0.0.1:4433", "[::1]:4433"),
        listeners=(
            ListenerReading(listen="127.0.0.1:4433", kernel_dropped=17, receive_buffer_bytes=4096),
            ListenerReading(listen="[::1]:4433", kernel_dropped=0, receive_buffer_bytes=4096),
        ),
        ready=True,
        generation=3,
        loaded_at=1_700_000_000.25,
        last_reload_ok=False,
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
                last_seen_s=60.0,
            ),
        ),
        cid_configs=(CidConfigReading(config_id=1, algorithm="single-pass", packets=12, last_seen_s=1.0),),
        outcomes={"cid_config_0": 2, "cid_config_1": 12, "four_tuple_no_config": 2, "fallback_too_short": 1},
        received_packets=22,
        received_bytes=22_000,
        dropped={"empty": 5},
        unroutable={"no_config": 2, "too_short": 1},
        return_dropped=7,
        return_overflowed=11,
        send_errors={"would_block": 13, "other": 0},
        icmp_forwarded=19,
        icmp_sent=23,
        sessions=8,
        sessions_evicted=6,
        workers=(WorkerReading(index=0, pid=123, alive=True), WorkerReading(index=1, pid=124, alive=False)),
        worker_restarts=4,
    )
