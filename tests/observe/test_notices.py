"""The notices of a reading."""

import dataclasses

import pytest

from qlb.observe.bounds import SESSIONS
from qlb.observe.figures import Reading, RotationReading, UnconfiguredReading, XdpReading
from qlb.observe.notices import CRITICAL, INFO, SEVERITIES, WARNING, Notice, notices


def kinds(reading: Reading) -> list[tuple[str, str]]:
    """Return severity and kind of each notice."""
    return [(notice.severity, notice.kind) for notice in notices(reading)]


def calm(reading: Reading) -> Reading:
    """Return a reading without notices."""
    return dataclasses.replace(
        reading,
        last_reload_ok=True,
        all_failing=False,
        probe_error="",
        backends=tuple(dataclasses.replace(row, finding="", excluded="") for row in reading.backends),
        discovery=(dataclasses.replace(reading.discovery[0], remarks=()),),
        rotation=RotationReading(phase="idle"),
        workers=reading.workers[:1],
        listeners=reading.listeners[1:],
    )


def with_backends(reading: Reading, *rows: dict[str, object]) -> Reading:
    """Return a calm reading with backends that have these fields."""
    row = dataclasses.replace(reading.backends[0], finding="", excluded="")
    rows_ = tuple(dataclasses.replace(row, name=f"x{n}", **fields) for n, fields in enumerate(rows))  # type: ignore[arg-type]
    return dataclasses.replace(calm(reading), backends=rows_)


def test_every_kind_of_notice(reading: Reading) -> None:
    """Each fault has its notice, the most severe first."""
    faulty = dataclasses.replace(
        reading,
        unconfigured=(dataclasses.replace(reading.unconfigured[0], over=0.02),),
        without_ids=True,
        kernel_drops_over=0.002,
        totals={**reading.totals, "sessions": 120_000},
    )
    assert kinds(faulty) == [
        (CRITICAL, "worker_silent"),
        (CRITICAL, "address_shared"),
        (CRITICAL, "all_probes_failing"),
        (CRITICAL, "backend_finding"),
        (CRITICAL, "kernel_drops"),
        (WARNING, "worker_behind"),
        (WARNING, "probes_not_sent"),
        (WARNING, "backend_excluded"),
        (WARNING, "sessions_near_max"),
        (WARNING, "reload_refused"),
        (WARNING, "discovery_failing"),
        (WARNING, "no_cids"),
        (WARNING, "unconfigured_config_id"),
        (WARNING, "rotation"),
        (INFO, "discovery_remark"),
    ]
    texts = {notice.kind: notice.text for notice in notices(faulty)}
    assert texts["reload_refused"] == (
        "the last reload was refused, and the configuration on disk is not in force; the next try is in 58 s: "
        "backend 'b' still gets packets"
    )
    assert texts["worker_behind"] == "worker 1 (process 124) has not applied the current configuration yet"
    assert texts["worker_silent"] == "worker 1 (process 124) has not completed a round of its loop for 7.0 s"
    assert "receives a part of the clients of 127.0.0.1:4433; the log names it" in texts["address_shared"]
    assert texts["backend_finding"] == "b:2: wrong key"
    assert texts["backend_excluded"] == "b:2 gets no packets: it loops"
    assert texts["discovery_failing"].endswith("the backends that it found before stay: gone")
    assert texts["discovery_remark"] == "source agents of backends: AAAA fails"
    assert "0.2 % of the packets" in texts["kernel_drops"]
    assert "120,000 of 131,072" in texts["sessions_near_max"]
    assert texts["rotation"] == "rotation, retiring: wait"


def test_a_severity_has_a_level_and_a_page() -> None:
    """The level has the words of a log. A kind without a page of its own is explained in the list of notices."""
    assert [Notice(severity, "no_such_kind", "").level for severity in SEVERITIES] == ["error", "warning", "info"]
    assert Notice(INFO, "no_such_kind", "").see == "watching.md#notices"


def test_no_healthy_backend_comes_first(reading: Reading) -> None:
    """If all backends are down, the first notice is critical and has the words of the probes if they agree."""
    dead = {"healthy": False, "detail": "connection refused; 3 times in a row"}
    found = notices(dataclasses.replace(with_backends(reading, dead, dead), workers=reading.workers))
    assert (found[0].severity, found[0].kind) == (CRITICAL, "no_backend")
    assert found[0].text == "no healthy backend: all 2 backends are down (connection refused)"
    assert notices(with_backends(reading, dead))[0].text.startswith("no healthy backend: the only backend is down")
    mixed = notices(with_backends(reading, dead, {**dead, "detail": "no answer"}))
    assert mixed[0].text == "no healthy backend: all 2 backends are down"


def test_no_backend_for_new_connections(reading: Reading) -> None:
    """A pool that only drains takes no new connections, and neither does an empty one. One usable backend is enough."""
    drains: dict[str, object] = {"state": "draining"}
    assert notices(with_backends(reading, drains, {"healthy": False}))[0].text == (
        "no backend for new connections: 1 backend of 2 up, but draining"
    )
    assert notices(with_backends(reading, drains, {})) == []
    removed = with_backends(reading, {"state": "removed", "healthy": False})
    assert [notice.text for notice in notices(removed)] == ["no backend is configured: packets are dropped"]


def test_sessions_below_their_bound(reading: Reading) -> None:
    """At the bound there is no notice, and a plane without sessions has none."""
    for now, most, wanted in ((90, 100, []), (91, 100, [(WARNING, "sessions_near_max")]), (0, 0, [])):
        totals = {**reading.totals, "sessions": now, "sessions_max": most}
        assert kinds(dataclasses.replace(calm(reading), totals=totals)) == wanted
    assert SESSIONS.above == 0.9


def test_unconfigured_config_ids_share_one_line(reading: Reading) -> None:
    """However many config IDs are unknown, there is one notice. It names those that exceed their bound."""
    rows = tuple(
        UnconfiguredReading(config_id=n, packets=900, last_seen_s=0.0, sustained=True, over=0.02 * (n < 3))
        for n in range(7)
    )
    (found,) = notices(dataclasses.replace(calm(reading), unconfigured=rows))
    assert found.kind == "unconfigured_config_id"
    assert found.text.startswith("6.0 % of the packets in the last minute have IDs with the config IDs 0, 1, 2, which")
    (found,) = notices(dataclasses.replace(calm(reading), unconfigured=rows[2:]))
    assert "with the config ID 2, which" in found.text


def test_the_reasons_of_a_refused_reload(reading: Reading) -> None:
    """The notice has the first reason, not longer than a paragraph, and the number of the others."""
    problems = ("edge.yaml:3:5: " + "x" * 400, "second", "third")
    refused = dataclasses.replace(calm(reading), last_reload_ok=False, reload_problems=problems, reload_retry_s=None)
    (found,) = notices(refused)
    assert ": edge.yaml:3:5: xxx" in found.text
    assert found.text.endswith("xxx… (and 2 more reasons, see the log)")
    assert len(found.text) < 450
    (found,) = notices(dataclasses.replace(refused, reload_problems=()))
    assert found.text == "a worker has not applied the last reload; the log has the reason"


def test_without_faults_there_is_no_notice(reading: Reading) -> None:
    """A few packets with a config ID that is not configured cause no notice."""
    assert notices(calm(reading)) == []
    once = UnconfiguredReading(config_id=2, packets=400, last_seen_s=0.0, sustained=True, configured_before=True)
    assert notices(dataclasses.replace(calm(reading), unconfigured=(once,))) == []


def test_faults_of_interfaces(reading: Reading) -> None:
    """Each fault that the XDP plane has found is a notice with its text."""
    faulty = dataclasses.replace(calm(reading), xdp=XdpReading(notices=("in0: detached", "out0: refused")))
    assert kinds(faulty) == [(CRITICAL, "xdp")] * 2
    assert [notice.text for notice in notices(faulty)] == ["in0: detached", "out0: refused"]
    assert notices(dataclasses.replace(faulty, xdp=XdpReading())) == []


def test_a_finished_rotation_is_info(reading: Reading) -> None:
    """A rotation that is done has a notice of level info."""
    done = dataclasses.replace(calm(reading), rotation=RotationReading(phase="done", next_step="remove it"))
    assert kinds(done) == [(INFO, "rotation")]


@pytest.mark.parametrize("count", [1, 5, 6, 5000])
def test_many_backends_are_counted(reading: Reading, count: int) -> None:
    """Five backends of a kind are named, and the others are counted."""
    row = reading.backends[0]
    rows = tuple(dataclasses.replace(row, name=f"x{n}", finding="bad", without_ids=True) for n in range(count))
    found = notices(dataclasses.replace(calm(reading), backends=rows))
    for kind in ("backend_finding", "backend_without_cids"):
        texts = [notice.text for notice in found if notice.kind == kind]
        assert len(texts) == min(count, 6)
        assert [text.startswith(f"x{n}") for n, text in enumerate(texts[:5])] == [True] * min(count, 5)
        if count > 5:
            assert texts[5].startswith(f"and {count - 5} more backends")


def test_a_refused_reload_and_the_backends_that_drain_for_it(reading: Reading) -> None:
    """The notice gives the time of the next try. A backend that drains for the reload is named."""
    row = reading.backends[0]
    refused = dataclasses.replace(
        calm(reading), last_reload_ok=False, backends=(dataclasses.replace(row, leaving=True), row)
    )
    texts = [notice.text for notice in notices(dataclasses.replace(refused, reload_retry_s=58.5))]
    assert "the next try is in 58 s" in texts[0]
    assert texts[1:] == [
        f"{row.name} drains by itself: the reload of the configuration on disk waits until no packet goes to it"
    ]
    assert "next try" not in notices(dataclasses.replace(refused, reload_retry_s=None))[0].text
