"""The metrics page, parsed by Prometheus's own parsers."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qlb.observe.exposition import Metrics, choose_format
from qlb.observe.figures import Reading, XdpReading
from qlb.routing import counters
from qlb.routing.outcomes import OUTCOMES, REASONS
from qlb.routing.totals import NO_SLOT, TOTALS

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
DROP_REASONS = {outcome.reason for outcome in OUTCOMES if outcome.route == "drop"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(families: Iterable[Metric]) -> Samples:
    """Return (name, labels) → value of qlb's own samples. Check that no sample occurs twice."""
    rows = [
        (sample(row.name, **row.labels), row.value)
        for family in families
        for row in family.samples
        if row.name.startswith("qlb_")
    ]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def scrape(reading: Reading) -> Samples:
    """Return the samples of the page as text."""
    return samples(parse_text(Metrics(lambda: reading).render()[0].decode()))


def sample(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the key of a sample."""
    return name, tuple(sorted(labels.items()))


def total(found: Samples, name: str) -> float:
    """Return the sum of a metric's samples."""
    return sum(value for (found_name, _), value in found.items() if found_name == name)


CONTRACT = {
    ("qlb_packets_received_total", ""),
    ("qlb_bytes_received_total", ""),
    ("qlb_packets_forwarded_total", "backend route"),
    ("qlb_packets_dropped_total", "reason"),
    ("qlb_packets_returned_total", "backend"),
    ("qlb_bytes_forwarded_total", "backend"),
    ("qlb_bytes_returned_total", "backend"),
    ("qlb_new_flows_total", "backend"),
    ("qlb_forwarding_latency_seconds_bucket", "direction le"),
    ("qlb_forwarding_latency_seconds_count", "direction"),
    ("qlb_forwarding_latency_seconds_sum", "direction"),
    ("qlb_worker_cpu_seconds_total", "worker"),
    ("qlb_worker_resident_memory_bytes", "worker"),
    ("qlb_unroutable_packets_total", "reason"),
    ("qlb_cid_config_packets_total", "config_id"),
    ("qlb_backend_up", "backend"),
    ("qlb_backend_draining", "backend"),
    ("qlb_sessions", ""),
    ("qlb_sessions_max", ""),
    ("qlb_config_last_reload_successful", ""),
    ("qlb_config_last_reload_success_timestamp_seconds", ""),
    ("qlb_config_generation", ""),
    ("qlb_worker_restarts_total", ""),
    ("qlb_worker_hangs_total", ""),
    ("qlb_worker_heartbeat_age_seconds", "worker"),
    ("qlb_build_info", "mode plane python version"),
    ("qlb_return_packets_dropped_total", ""),
    ("qlb_sessions_evicted_total", ""),
    ("qlb_return_overflowed_packets_total", ""),
    ("qlb_send_errors_total", "backend direction error"),
    ("qlb_sessions_protected", ""),
    ("qlb_sessions_reopened_total", ""),
    ("qlb_return_pauses_total", ""),
    ("qlb_kernel_dropped_packets_total", "listen"),
    ("qlb_receive_buffer_bytes", "listen"),
    ("qlb_send_buffer_bytes", "listen"),
    ("qlb_listen_strangers", "listen"),
    ("qlb_backend_drained", "backend"),
    ("qlb_backend_last_packet_timestamp_seconds", "backend"),
    ("qlb_cid_config_info", "algorithm config_id fingerprint state"),
    ("qlb_cid_config_last_packet_timestamp_seconds", "config_id"),
    ("qlb_unconfigured_cid_packets_total", "config_id"),
    ("qlb_unknown_server_id_packets_total", "config_id"),
    ("qlb_backend_unknown_cids", "backend"),
    ("qlb_wrong_cids_shown_total", ""),
    ("qlb_backend_without_cids", "backend"),
    ("qlb_rotation_phase", "phase"),
    ("qlb_backend_cid_mismatch", "backend"),
    ("qlb_discovery_backends", "source"),
    ("qlb_discovery_up", "source"),
    ("qlb_discovery_remarks", "source"),
    ("qlb_backend_excluded", "backend"),
    ("qlb_fallback_share", "backend"),
    ("qlb_probes_total", "result"),
    ("qlb_health_probe_errors_total", "error"),
    ("qlb_health_all_failing", ""),
}


def total_names(*, only_direct_return: bool) -> set[str]:
    """Return the names of the metrics of TOTALS that have no labels."""
    rows = (one for one in TOTALS if one.only_direct_return is only_direct_return and not one.by_backend)
    return {f"{one.metric}_total" if one.kind == "counter" else one.metric for one in rows}


def test_names_and_labels_are_the_contract(reading: Reading) -> None:
    """The page has exactly these metrics and those of TOTALS, with exactly these labels. Users query them."""
    found = {(name, " ".join(label for label, _ in labels)) for name, labels in scrape(reading)}
    assert found == CONTRACT | {(name, "") for name in total_names(only_direct_return=False)}


def test_direct_return_has_other_metrics(reading: Reading) -> None:
    """In the direct-return modes the page has ICMP messages instead of returned packets."""
    xdp = XdpReading(notices=("in0: detached",), detached_interfaces=1, refused_backends=2)
    found = scrape(dataclasses.replace(reading, mode="ipip", xdp=xdp))
    others = {name for name, _ in CONTRACT} | total_names(only_direct_return=False)
    assert {name for name, _ in found} ^ others == {
        "qlb_packets_returned_total",
        "qlb_bytes_returned_total",
        "qlb_xdp_detached_interfaces",
        "qlb_xdp_refused_backends",
        *total_names(only_direct_return=True),
    }
    assert found[sample("qlb_xdp_detached_interfaces")] == 1
    assert found[sample("qlb_xdp_refused_backends")] == 2
    assert found[sample("qlb_icmp_forwarded_total")] == 19
    assert found[sample("qlb_icmp_sent_total")] == 23


def test_types(reading: Reading) -> None:
    """A metric whose name ends in _total is a counter, the latency is a histogram, and every other one is a gauge."""
    families = parse_text(Metrics(lambda: reading).render()[0].decode())
    types = {row.name: family.type for family in families for row in family.samples}
    for name, _ in CONTRACT:
        kind = "histogram" if name.startswith("qlb_forwarding_latency_seconds_") else "gauge"
        assert types[name] == ("counter" if name.endswith("_total") else kind), name


def test_values(reading: Reading) -> None:
    """Every figure of the reading has its sample."""
    found = scrape(reading)
    expected: Samples = {
        sample("qlb_packets_received_total"): 22,
        sample("qlb_bytes_received_total"): 22_000,
        sample("qlb_packets_forwarded_total", backend="a", route="cid"): 10,
        sample("qlb_packets_forwarded_total", backend="a", route="flow"): 2,
        sample("qlb_packets_forwarded_total", backend="a", route="fallback"): 1,
        sample("qlb_packets_forwarded_total", backend="b:2", route="cid"): 0,
        sample("qlb_packets_dropped_total", reason="empty"): 5,
        sample("qlb_packets_dropped_total", reason="no_backend"): 0,
        sample("qlb_packets_returned_total", backend="a"): 9,
        sample("qlb_bytes_forwarded_total", backend="a"): 15_600,
        sample("qlb_bytes_returned_total", backend="gone"): 300,
        sample("qlb_new_flows_total", backend="a"): 3,
        sample("qlb_new_flows_total", backend="b:2"): 0,
        sample("qlb_forwarding_latency_seconds_bucket", direction="backend", le="1e-05"): 5,
        sample("qlb_forwarding_latency_seconds_bucket", direction="backend", le="0.1"): 8,
        sample("qlb_forwarding_latency_seconds_bucket", direction="backend", le="+Inf"): 9,
        sample("qlb_forwarding_latency_seconds_count", direction="backend"): 9,
        sample("qlb_forwarding_latency_seconds_sum", direction="client"): 0.25,
        sample("qlb_worker_cpu_seconds_total", worker="0"): 61.23456,
        sample("qlb_worker_resident_memory_bytes", worker="0"): 47_185_920,
        sample("qlb_unroutable_packets_total", reason="no_config"): 2,
        sample("qlb_unroutable_packets_total", reason="unknown_server_id"): 0,
        sample("qlb_cid_config_packets_total", config_id="1"): 12,
        sample("qlb_backend_up", backend="a"): 1,
        sample("qlb_backend_up", backend="b:2"): 0,
        sample("qlb_backend_draining", backend="a"): 0,
        sample("qlb_backend_draining", backend="b:2"): 1,
        sample("qlb_return_packets_dropped_total"): 7,
        sample("qlb_return_overflowed_packets_total"): 11,
        sample("qlb_send_errors_total", error="would_block", direction="client", backend=""): 13,
        sample("qlb_send_errors_total", error="other", direction="client", backend=""): 0,
        sample("qlb_send_errors_total", error="too_large", direction="backend", backend="a"): 31,
        sample("qlb_sessions_protected"): 2,
        sample("qlb_sessions_reopened_total"): 43,
        sample("qlb_return_pauses_total"): 47,
        sample("qlb_kernel_dropped_packets_total", listen="127.0.0.1:4433"): 17,
        sample("qlb_kernel_dropped_packets_total", listen="[::1]:4433"): 0,
        sample("qlb_receive_buffer_bytes", listen="[::1]:4433"): 4096,
        sample("qlb_send_buffer_bytes", listen="[::1]:4433"): 8192,
        sample("qlb_listen_strangers", listen="127.0.0.1:4433"): 2,
        sample("qlb_listen_strangers", listen="[::1]:4433"): 0,
        sample("qlb_sessions"): 8,
        sample("qlb_sessions_max"): 131_072,
        sample("qlb_config_last_reload_successful"): 0,
        sample("qlb_config_last_reload_success_timestamp_seconds"): 1_700_000_000.25,
        sample("qlb_config_generation"): 3,
        sample("qlb_worker_restarts_total"): 4,
        sample("qlb_worker_hangs_total"): 2,
        sample("qlb_worker_heartbeat_age_seconds", worker="0"): 0.25,
        sample("qlb_worker_heartbeat_age_seconds", worker="1"): 7.0,
        sample("qlb_backend_drained", backend="a"): 0,
        sample("qlb_backend_drained", backend="b:2"): 1,
        sample("qlb_backend_last_packet_timestamp_seconds", backend="a"): 1_700_000_100.0 - 0.12345,
        sample(
            "qlb_cid_config_info", algorithm="single-pass", config_id="1", fingerprint="0123abcd", state="retiring"
        ): 1,
        sample("qlb_cid_config_last_packet_timestamp_seconds", config_id="1"): 1_700_000_099.0,
        sample("qlb_unconfigured_cid_packets_total", config_id="4"): 29,
        sample("qlb_unknown_server_id_packets_total", config_id="1"): 53,
        sample("qlb_backend_unknown_cids", backend="a"): 0,
        sample("qlb_wrong_cids_shown_total"): 59,
        sample("qlb_fallback_share", backend="a"): 0.75,
        sample("qlb_backend_cid_mismatch", backend="a"): 0,
        sample("qlb_backend_cid_mismatch", backend="b:2"): 1,
        sample("qlb_probes_total", result="ok"): 31,
        sample("qlb_probes_total", result="failed"): 37,
        sample("qlb_health_probe_errors_total", error="EAGAIN"): 103,
        sample("qlb_health_all_failing"): 1,
        sample("qlb_rotation_phase", phase="idle"): 0,
        sample("qlb_rotation_phase", phase="retiring"): 1,
    }
    assert {key: found[key] for key in expected} == expected


def test_received_is_forwarded_plus_dropped(reading: Reading) -> None:
    """Received = forwarded + dropped, and forwarded = by ID + unroutable, including backends that have left."""
    found = scrape(reading)
    forwarded = total(found, "qlb_packets_forwarded_total")
    assert total(found, "qlb_packets_received_total") == forwarded + total(found, "qlb_packets_dropped_total")
    by_id = total(found, "qlb_cid_config_packets_total")
    assert forwarded == by_id + total(found, "qlb_unroutable_packets_total")


def test_a_removed_backend_keeps_its_counts_only(reading: Reading) -> None:
    """A backend that has left has counters and no gauges."""
    names = {name for name, labels in scrape(reading) if ("backend", "gone") in labels}
    assert names == {
        "qlb_packets_forwarded_total",
        "qlb_packets_returned_total",
        "qlb_bytes_forwarded_total",
        "qlb_bytes_returned_total",
        "qlb_new_flows_total",
    }


def test_a_removed_config_keeps_its_counts(reading: Reading) -> None:
    """The packets of config ID 0 are exposed although its CID config was removed."""
    found = scrape(reading)
    assert found[sample("qlb_cid_config_packets_total", config_id="0")] == 2
    assert sample("qlb_cid_config_packets_total", config_id="2") not in found


def test_known_rows_are_there_from_the_start(reading: Reading) -> None:
    """A fresh daemon exposes zeros, so that a rate exists from the first packet on."""
    fresh = dataclasses.replace(reading, dropped={}, unroutable={}, outcomes={})
    found = scrape(fresh)
    assert {row for name, ((_, row),) in rows_of(found, "qlb_packets_dropped_total")} == DROP_REASONS
    assert {row for name, ((_, row),) in rows_of(found, "qlb_unroutable_packets_total")} == set(REASONS)


def rows_of(found: Samples, wanted: str) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Return the keys of one metric's samples."""
    return [(name, labels) for name, labels in found if name == wanted]


@pytest.mark.parametrize(("mode", "returns"), [("proxy", True), ("proxy-protocol", True), ("ipip", False)])
def test_returned_packets_exist_only_in_modes_with_replies(reading: Reading, mode: str, returns: bool) -> None:
    """With direct return there is no row of returned packets: a zero would be a false statement."""
    found = scrape(dataclasses.replace(reading, mode=mode))
    assert bool(rows_of(found, "qlb_packets_returned_total")) is returns


def test_kernel_drops_are_absent_if_the_system_does_not_count_them(reading: Reading) -> None:
    """A zero would be a false statement."""
    silent = tuple(dataclasses.replace(row, kernel_dropped=None) for row in reading.listeners)
    assert b"qlb_kernel_dropped" not in Metrics(lambda: dataclasses.replace(reading, listeners=silent)).render()[0]


def test_what_cannot_be_measured_is_absent(reading: Reading) -> None:
    """Without workers there is no latency, no processor time and no memory; an unknown memory has no row."""
    page = Metrics(lambda: dataclasses.replace(reading, workers=(), latency=())).render()[0]
    assert b"qlb_forwarding_latency" not in page
    assert b"qlb_worker" not in page.replace(b"qlb_worker_restarts", b"").replace(b"qlb_worker_hangs", b"")
    assert sample("qlb_worker_resident_memory_bytes", worker="1") not in scrape(reading)


def test_each_scrape_takes_a_reading(reading: Reading) -> None:
    """Each scrape takes exactly one reading, and the page stores nothing between scrapes."""
    taken: list[Reading] = []

    def read() -> Reading:
        taken.append(dataclasses.replace(reading, generation=len(taken)))
        return taken[-1]

    metrics = Metrics(read)
    assert taken == []
    for generation in range(2):
        found = samples(parse_text(metrics.render()[0].decode()))
        assert found["qlb_config_generation", ()] == generation
    assert len(taken) == 2


def test_the_process_is_exposed(reading: Reading) -> None:
    """The page has the CPU time of the supervisor."""
    assert b"process_cpu_seconds_total" in Metrics(lambda: reading).render()[0]


def test_text_by_default(reading: Reading) -> None:
    """The default is the text format. No name ends in _total twice."""
    body, content_type = Metrics(lambda: reading).render("*/*")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"_total_total" not in body
    assert b"_created" not in body


@pytest.mark.parametrize("accept", ["application/openmetrics-text", PROMETHEUS_3])
def test_openmetrics_on_request(reading: Reading, accept: str) -> None:
    """OpenMetrics has the same figures and ends with its end mark."""
    body, content_type = Metrics(lambda: reading).render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert samples(cast(Any, parse_openmetrics)(body.decode())) == scrape(reading)


@pytest.mark.parametrize("version", ["1.0.0", "1.0.1", "2.0.0", "01.7.0", "987.0.0"])
@pytest.mark.parametrize("name", ["application/openmetrics-text", "text/plain"])
def test_there_are_few_formats(version: str, name: str) -> None:
    """Every later version gets version 1.0.0, because pages are cached by their format."""
    content_type = choose_format(f"{name};version={version};escaping=underscores").content_type
    assert content_type == f"{name}; version=1.0.0; charset=utf-8; escaping=underscores"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "application/openmetrics-text; version=1.0.0x",
        "application/openmetrics-text; version=1.0",
        "application/openmetrics-text; version=" + "9" * 5000 + ".0.0",
        "text/plain;version=1.\xff",
        "text/plain;version=",
        ",;,=;q=,",
        "\x00",
    ],
)
def test_a_malformed_accept_header_is_ignored(reading: Reading, accept: str) -> None:
    """A malformed Accept header gets the default format and causes no exception."""
    assert Metrics(lambda: reading).render(accept)[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_totals_have_slots_and_names_of_their_own() -> None:
    """No two totals share a slot, a name or a metric, and each slot is one of a worker's single counters."""
    slots = [one.slot for one in TOTALS if one.slot != NO_SLOT]
    assert len(set(slots)) == len(slots)
    assert all(0 <= slot < counters.OUTCOME for slot in slots)
    assert len({one.name for one in TOTALS}) == len({one.metric for one in TOTALS}) == len(TOTALS)


def test_the_page_about_watching_describes_every_total() -> None:
    """The list in docs/watching.md has each row of TOTALS, with its text, and no other row."""
    text = (Path(__file__).parents[2] / "docs/watching.md").read_text()
    _, _, text = text.partition("### Counters\n")
    items = re.split(r"^- ", text.partition("Alert rules")[0], flags=re.MULTILINE)[1:]
    assert [" ".join(item.split()) for item in items] == [
        f"`{one.metric}{'_total' if one.kind == 'counter' else ''}` (`{one.name}`): {one.text}" for one in TOTALS
    ]
