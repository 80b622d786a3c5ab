"""The CPU quota of control groups, as a process reads it. Folders that a test creates replace /proc and /sys."""

import logging
from pathlib import Path

import pytest

from qlb.config.load import load
from qlb.workers import cores as quotas
from qlb.workers.cores import auto_workers, log_quota, read_quota


def _v2(folder: Path, group: str, *, root: str = "/", name: str = "cg") -> Path:
    """Describe a process in a group of the unified hierarchy (version 2). Return the folder where it is mounted."""
    mounted = folder / name
    mounted.mkdir(exist_ok=True)
    (folder / "mountinfo").write_text(
        f"31 23 0:28 {root} {mounted} rw,relatime shared:1 - cgroup2 cgroup2 rw\nnonsense\n"
    )
    (folder / "cgroup").write_text(f"1:name=systemd:/other\n0::{group}\n")
    return mounted


def _v1(folder: Path, group: str, *, root: str = "/") -> Path:
    """Describe a process in a group of version 1 hierarchies. Return the folder of the CPU controller's hierarchy."""
    mounted = folder / "cpu,cpuacct"
    mounted.mkdir(exist_ok=True)
    lines = (
        f"33 31 0:30 / {folder}/memory rw - cgroup cgroup rw,memory",
        f"32 31 0:29 {root} {mounted} rw - cgroup cgroup rw,cpuacct,cpu",
        f"41 31 0:38 / {folder}/unified rw - cgroup2 cgroup2 rw",
    )
    (folder / "mountinfo").write_text("\n".join(lines))
    (folder / "cgroup").write_text(f"4:memory:/elsewhere\n2:cpu,cpuacct:{group}\n0::/\n")
    return mounted


def _set_v2(group: Path, text: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text(text)


def _set_v1(group: Path, quota: int, period: int = 100_000) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),
        ("250000 100000\n", 3),
        ("5000 50000\n", 1),
        ("6400000 100000\n", 8),
        ("max 100000\n", 8),
        ("-1 100000\n", 8),
        ("100000 0\n", 8),
        ("nonsense\n", 8),
        ("\n", 8),
    ],
)
def test_rounded_up_and_never_more_than_cores(tmp_path: Path, text: str, workers: int) -> None:
    """A quota is rounded up to whole workers (1.5 cores: 2 workers), and cores limit the number."""
    _set_v2(_v2(tmp_path, "/a") / "a", text)
    assert auto_workers(8, tmp_path) == workers


def test_the_smallest_of_nested_groups_decides(tmp_path: Path) -> None:
    """The smallest quota of nested groups decides, for example of a systemd slice or of a pod."""
    mounted = _v2(tmp_path, "/pod/box/inner")
    _set_v2(mounted / "pod", "200000 100000")
    _set_v2(mounted / "pod" / "box", "300000 100000")
    _set_v2(mounted / "pod" / "box" / "inner", "max 100000")
    quota = read_quota(tmp_path)
    assert quota is not None
    assert (quota.cores, quota.group) == (2.0, mounted / "pod")


@pytest.mark.parametrize(
    ("group", "root", "at"),
    [
        ("/", "/", ""),  # a container with its own cgroup namespace
        (
            "/docker/abc",
            "/docker/abc",
            "",
        ),  # a container without one: its path is the host's
        ("/docker/abc/inner", "/docker/abc", "inner"),
        ("/docker/abc", "/elsewhere", ""),  # a path that does not exist in this mount
        ("/../other", "/", ""),
    ],
)
def test_the_groups_of_containers(tmp_path: Path, group: str, root: str, at: str) -> None:
    """The group of a container is found in both versions of the hierarchy."""
    _set_v2(_v2(tmp_path, group, root=root) / at, "100000 100000")
    assert auto_workers(8, tmp_path) == 1
    _set_v1(_v1(tmp_path, group, root=root) / at, 200_000)
    assert auto_workers(8, tmp_path) == 2


def test_version_1(tmp_path: Path) -> None:
    """In v1, a quota of -1 means no quota. A quota of the parent group still counts."""
    mounted = _v1(tmp_path, "/a/b")
    _set_v1(mounted / "a" / "b", -1)
    assert read_quota(tmp_path) is None
    _set_v1(mounted / "a", 50_000, 25_000)
    assert auto_workers(8, tmp_path) == 2


def test_a_folder_with_a_blank(tmp_path: Path) -> None:
    """A mount path with a blank is parsed correctly: the mount table contains the blank in octal."""
    _set_v2(_v2(tmp_path, "/", name="c g"), "100000 100000")
    text = (tmp_path / "mountinfo").read_text()
    (tmp_path / "mountinfo").write_text(text.replace("c g", r"c\040g"))
    assert auto_workers(8, tmp_path) == 1


def test_no_groups(tmp_path: Path) -> None:
    """Without control groups, or if they cannot be read, one worker for each core is used."""
    assert auto_workers(8, tmp_path) == 8
    (tmp_path / "mountinfo").write_bytes(b"\xff")
    assert auto_workers(8, tmp_path) == 8


def test_the_quota_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The quota is logged only if it is the reason for the number of workers."""
    caplog.set_level(logging.INFO)
    _set_v2(_v2(tmp_path, "/"), "150000 100000")
    assert (auto_workers(2, tmp_path), auto_workers(1, tmp_path)) == (2, 1)
    for cores in (2, 1):
        log_quota(cores, tmp_path)
    log_quota(2, tmp_path / "nowhere")
    assert caplog.records[0].getMessage().startswith("workers: auto runs 2 for a CPU quota of 1.5 cores; ")
    assert len(caplog.records) == 1


def test_the_configuration_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `workers: auto` follows the quota. A number is used as it is."""
    monkeypatch.setattr(quotas, "usable_cores", lambda: tuple(range(8)))
    monkeypatch.setattr(quotas, "auto_workers", lambda cores: auto_workers(cores, tmp_path))
    _set_v2(_v2(tmp_path, "/"), "150000 100000")
    path = tmp_path / "qlb.yaml"
    found = []
    for workers in ("auto", "5"):
        path.write_text(f'{{listen: ["127.0.0.1:0"], backends: [], forwarding: {{workers: {workers}}}}}')
        found.append(quotas.worker_count(load(path).config))
    assert found == [2, 5]
