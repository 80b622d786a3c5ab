"""The machine's limits, compared with the configuration."""

import resource
from pathlib import Path

import pytest

from qlb.dataplane import limits
from qlb.dataplane.limits import (
    REFLECTION_PORTS,
    Limits,
    affordable_sessions,
    descriptor_shortfall,
    granted_sessions,
    port_budget,
    port_shortfall,
    read_limits,
    sessions_within,
)

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "sessions"),
    [
        (70, 70, None, 6),
        (70, 76, 76, 12),
        (70, INFINITE, 84, 20),
        (1000, 1000, None, 20),
        (INFINITE, INFINITE, None, 20),
        (10, 10, None, 1),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised_to: int | None, sessions: int
) -> None:
    """The soft limit is raised as far as 20 sessions need and the hard limit allows. It bounds the sessions."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, to: raised.append(to))
    assert affordable_sessions(20) == sessions
    assert raised == ([] if raised_to is None else [(raised_to, hard)])


@pytest.mark.parametrize(
    ("wanted", "open_files", "sessions"), [(65_536, 20_000, 19_936), (100, 164, 100), (100, 163, 99), (9, None, 9)]
)
def test_sessions_within_a_limit(wanted: int, open_files: int | None, sessions: int) -> None:
    """Sessions may use all descriptors except those that are needed otherwise."""
    assert sessions_within(wanted, open_files) == sessions


def test_too_few_descriptors_are_reported_with_figures_and_the_remedy() -> None:
    """The message gives the configured and the possible number and the limit to raise; there is none if all fit."""
    assert descriptor_shortfall(65_536, Limits(20_000, None)) == (
        "forwarding.max_sessions is 65,536, but a worker may open 20,000 files: 19,936 sessions at most; "
        "raise the hard limit (systemd: LimitNOFILE, shell: ulimit -n)"
    )
    assert descriptor_shortfall(19_936, Limits(20_000, None)) is None
    assert descriptor_shortfall(10**6, Limits(None, None)) is None


@pytest.mark.parametrize(
    ("workers", "ports", "budget"),
    [(1, 28_232, 25_408), (2, 28_232, 12_704), (4, 10, 2), (100, 10, 1), (3, None, None)],
)
def test_a_worker_may_use_its_part_of_nine_tenths_of_the_ports(
    workers: int, ports: int | None, budget: int | None
) -> None:
    """Workers share nine tenths of the ports, with at least one each; probes and other programs use the rest."""
    assert port_budget(workers, Limits(None, ports)) == budget


def test_too_few_ports_are_reported_with_the_sysctl() -> None:
    """All workers' sessions share the ports; there is no warning if they are enough or their number is unknown."""
    assert port_shortfall(20_000, 2, 1, Limits(None, 28_232)) == (
        "forwarding.max_sessions is 20,000 for each of 2 workers, but there are 28,232 local ports for all: a worker "
        "may use 12,704, and one serves 1 sessions at most; widen the sysctl net.ipv4.ip_local_port_range"
    )
    assert port_shortfall(12_704, 2, 1, Limits(None, 28_232)) is None
    assert port_shortfall(12_705, 2, 1, Limits(None, 28_232)) is not None
    assert port_shortfall(38_112, 2, 3, Limits(None, 28_232)) is None
    assert port_shortfall(10**6, 100, 1, Limits(None, None)) is None


@pytest.mark.parametrize(
    ("wanted", "workers", "uses", "limits", "granted"),
    [
        (65_536, 1, 1, Limits(1_048_576, 28_232), 25_408),
        (65_536, 1, 3, Limits(1_048_576, 28_232), 65_536),
        (65_536, 2, 3, Limits(1_048_576, 28_232), 38_112),
        (65_536, 1, 3, Limits(20_000, 28_232), 19_936),
        (65_536, 1, 1, Limits(None, None), 65_536),
        (65_536, 64, 1, Limits(10, 1), 1),
        (100, 1, 1, Limits(1_048_576, 28_232), 100),
    ],
)
def test_the_lowest_limit_counts(wanted: int, workers: int, uses: int, limits: Limits, granted: int) -> None:
    """A worker gets what it wants, what its descriptors allow, or what its part of the ports serves."""
    assert granted_sessions(wanted, workers, uses, limits) == granted


def test_reading_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hard limit counts, because the soft one is raised; the port range includes both its ends."""
    file, reserved = tmp_path / "range", tmp_path / "reserved"
    file.write_text("32768\t60999\n")
    monkeypatch.setattr(limits, "_PORT_RANGE", file)
    monkeypatch.setattr(limits, "_RESERVED_PORTS", reserved)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert read_limits() == (4096, 28_232)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, INFINITE))
    for text in ("", "none", "1"):
        file.write_text(text)
        assert read_limits() == (None, None)
    file.unlink()
    assert read_limits() == (None, None)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("\n", 100),
        ("1050\n", 99),
        ("1000-1009,1050,1095-2000\n", 84),
        ("999,1100\n", 100),
        ("0-65535\n", 1),
        ("nonsense\n", 100),
    ],
)
def test_reserved_ports_do_not_count_as_local_ports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, ports: int
) -> None:
    """Ports of ip_local_reserved_ports do not count: the kernel never chooses them for a socket."""
    for name, content in (("_PORT_RANGE", "1000 1099"), ("_RESERVED_PORTS", text)):
        path = tmp_path / name
        path.write_text(content)
        monkeypatch.setattr(limits, name, path)
    assert read_limits().local_ports == ports


def test_avoided_ports_are_unprivileged() -> None:
    """The list of avoided ports has no privileged ones, which no session gets anyway, and is sorted."""
    assert min(REFLECTION_PORTS) >= 1024
    assert sorted(REFLECTION_PORTS) == list(REFLECTION_PORTS)
