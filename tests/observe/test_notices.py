"""The notices of a reading."""

import dataclasses

import pytest

from qlb.observe.figures import Reading, RotationReading, UnconfiguredReading, XdpReading
from qlb.observe.notices import ERROR, INFO, WARNING, notices


def kinds(reading: Reading) -> list[tuple[str, str]]:
    """Return level and kind of each notice."""
    return [(notice.level, notice.kind) for notice in notices(reading)]


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


def test_every_kind_of_notice(reading: Reading) -> None:
    """Each fault has its notice, the most severe first."""
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
        "the last reload was refused: the configuration on disk is not in force; the next try is in 58 s; "
        "the log has the reasons"
    )
    assert texts[1] == "worker 1 (process 124) has not applied the current configuration yet"
    assert texts[2] == "worker 1 (process 124) has not completed a round of its loop for 7.0 s"
    assert texts[3] == "another process receives a part of the clients of 127.0.0.1:4433; the log names it"
    assert texts[6] == "b:2: wrong key"
    assert texts[7] == "b:2 gets no packets: it loops"
    assert texts[8] == "source pool of backends fails; the backends that it found before stay: gone"
    assert texts[9] == "source agents of backends: AAAA fails"
    assert "config ID 4" in texts[11]
    assert texts[12] == "rotation, retiring: wait"


def test_without_faults_there_is_no_notice(reading: Reading) -> None:
    """A few packets with a config ID that is not configured cause no notice."""
    assert notices(calm(reading)) == []
    once = UnconfiguredReading(config_id=2, packets=1, last_seen_s=0.0, configured_before=True)
    assert notices(dataclasses.replace(calm(reading), unconfigured=(once,))) == []


def test_faults_of_interfaces(reading: Reading) -> None:
    """Each fault that the XDP plane has found is a notice with its text."""
    faulty = dataclasses.replace(calm(reading), xdp=XdpReading(notices=("in0: detached", "out0: refused")))
    assert kinds(faulty) == [(ERROR, "xdp")] * 2
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
