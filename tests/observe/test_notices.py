"""Tests of the notices to the operator."""

import dataclasses

import pytest

from qlb.observe.figures import Reading, RotationReading, UnconfiguredReading, XdpReading
from qlb.observe.notices import ERROR, INFO, WARNING, notices


def kinds(reading: Reading) -> list[tuple[str, str]]:
    """Return level and kind of each notice."""
    return [(notice.level, notice.kind) for notice in notices(reading)]


def calm(reading: Reading) -> Reading:
    """Return the reading without any fault."""
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


def test_everything_has_a_notice(reading: Reading) -> None:
    """Every fault has a notice; errors come before warnings."""
    faulty = dataclasses.replace(
        reading, unconfigured=(dataclasses.replace(reading.unconfigured[0], sustained=True),), without_ids=True
    )
    assert kinds(faulty) == [
        (ERROR, "reload_refused"),
        (ERROR, "worker_behind"),
        (ERROR, "worker_silent"),
        (ERROR, "address_shared"),
        (ERROR, "all_probes_failing"),
        (ERROR, "probes_not_sent"),
        (ERROR, "backend_finding"),
        (ERROR, "backend_excluded"),
        (ERROR, "discovery_failing"),
        (WARNING, "discovery_remark"),
        (WARNING, "no_cids"),
        (WARNING, "unconfigured_config_id"),
        (WARNING, "rotation"),
    ]
    texts = [notice.text for notice in notices(faulty)]
    assert texts[0] == (
        "the last reload was refused: what is on disk is not in force; it is tried again in 58 s; the log says why"
    )
    assert texts[1] == "worker 1 (process 124) has not taken the current configuration yet"
    assert texts[2] == "worker 1 (process 124) has not gone round its loop for 7.0 s"
    assert texts[3] == "another process gets a part of the clients of 127.0.0.1:4433; the log names it"
    assert texts[6] == "b:2: wrong key"
    assert texts[7] == "b:2 gets no packets: it loops"
    assert texts[8] == "source pool of backends fails, and what it found before is retained: gone"
    assert texts[9] == "source agents of backends: AAAA fails"
    assert "config ID 4" in texts[11]
    assert texts[12] == "rotation, retiring: wait"


def test_without_faults_there_are_no_notices(reading: Reading) -> None:
    """A few packets with an unconfigured config ID give no notice."""
    assert notices(calm(reading)) == []
    once = UnconfiguredReading(config_id=2, packets=1, last_seen_s=0.0, configured_before=True)
    assert notices(dataclasses.replace(calm(reading), unconfigured=(once,))) == []


def test_faults_of_interfaces(reading: Reading) -> None:
    """Each fault that the XDP plane found is a notice with the plane's text."""
    faulty = dataclasses.replace(calm(reading), xdp=XdpReading(notices=("in0: detached", "out0: refused")))
    assert kinds(faulty) == [(ERROR, "xdp")] * 2
    assert [notice.text for notice in notices(faulty)] == ["in0: detached", "out0: refused"]
    assert notices(dataclasses.replace(faulty, xdp=XdpReading())) == []


def test_a_completed_rotation_is_information(reading: Reading) -> None:
    """A completed rotation gives a notice of level info about the next step."""
    done = dataclasses.replace(calm(reading), rotation=RotationReading(phase="done", next_step="remove it"))
    assert kinds(done) == [(INFO, "rotation")]


@pytest.mark.parametrize("count", [1, 5, 6, 5000])
def test_many_backends_are_counted(reading: Reading, count: int) -> None:
    """Notices name five backends of a kind and count the others."""
    row = reading.backends[0]
    rows = tuple(dataclasses.replace(row, name=f"x{n}", finding="bad", without_ids=True) for n in range(count))
    found = notices(dataclasses.replace(calm(reading), backends=rows))
    for kind in ("backend_finding", "backend_without_cids"):
        texts = [notice.text for notice in found if notice.kind == kind]
        assert len(texts) == min(count, 6)
        assert [text.startswith(f"x{n}") for n, text in enumerate(texts[:5])] == [True] * min(count, 5)
        if count > 5:
            assert texts[5].startswith(f"and {count - 5} more backends")


def test_a_refused_reload_and_a_backend_that_drains_for_it(reading: Reading) -> None:
    """The notice contains the time of the next automatic try, if any; a backend that drains for it is named."""
    row = reading.backends[0]
    refused = dataclasses.replace(
        calm(reading), last_reload_ok=False, backends=(dataclasses.replace(row, leaving=True), row)
    )
    texts = [notice.text for notice in notices(dataclasses.replace(refused, reload_retry_s=58.5))]
    assert "it is tried again in 58 s" in texts[0]
    assert texts[1:] == [f"{row.name} drains by itself: the configuration on disk waits until no packet goes to it"]
    assert "tried again" not in notices(dataclasses.replace(refused, reload_retry_s=None))[0].text
