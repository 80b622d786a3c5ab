"""The number of workers, and the cores that they may use: `workers: auto` follows the CPU quota of control groups."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from qlb.config.model import Config

log = logging.getLogger("qlb")

_SELF: Final = Path("/proc/self")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Quota(NamedTuple):
    """A CPU quota. cores: seconds of processor time per second. group: the folder of the control group that sets it."""

    cores: float
    group: Path


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups. root: the group at the mount's folder."""

    is_v2: bool
    root: str
    folder: Path


def auto_workers(cores: int, process: Path = _SELF) -> int:
    """Return the number of workers for `workers: auto`: one for each core, but no more than the quota allows.

    cores: number of cores that this process may use. process: its folder in /proc.
    """
    quota = read_quota(process)
    return cores if quota is None else min(cores, max(math.ceil(quota.cores), 1))


def log_quota(cores: int, process: Path = _SELF) -> None:
    """Log a quota below the number of cores, because it gives fewer workers than an operator may expect."""
    quota = read_quota(process)
    if quota is not None and quota.cores < cores:
        log.info(
            "workers: auto runs %d for a CPU quota of %g cores; this process may run on %d",
            *(auto_workers(cores, process), quota.cores, cores),
            extra={"cgroup": str(quota.group)},
        )


def read_quota(process: Path = _SELF) -> Quota | None:
    """Return the smallest quota of a process's groups; None if there is none or the system does not report it.

    process: its folder in /proc.
    """
    try:
        mounts = list(_mounts((process / "mountinfo").read_text()))
        groups = (process / "cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [quota for mount in mounts for folder in _folders(mount, groups) for quota in _quotas(mount, folder)]
    return min(found, default=None)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the hierarchies that may set CPU quotas."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            yield _Mount(kinds[0] == "cgroup2", _unescaped(fields[3]), Path(_unescaped(fields[4])))


def _folders(mount: _Mount, groups: list[str]) -> Iterator[Path]:
    """Yield the folders of this process's group in a hierarchy and of its visible ancestors."""
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if mount.is_v2 else "cpu" in controllers.split(","):
            inner = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else ""
            parts = [part for part in inner.split("/") if part]
            if ".." in parts:
                parts = []  # the group is outside this namespace's root
            for depth in range(len(parts), -1, -1):
                yield mount.folder.joinpath(*parts[:depth])


def _quotas(mount: _Mount, folder: Path) -> Iterator[Quota]:
    with suppress(OSError, ValueError):
        if mount.is_v2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield Quota(int(quota) / int(period), folder)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def worker_count(config: Config) -> int:
    """Return the number of worker processes for a configuration. auto follows the CPU quota."""
    workers = config.forwarding.workers
    return auto_workers(len(usable_cores())) if workers == "auto" else workers


def usable_cores() -> tuple[int, ...]:
    """Return the sorted numbers of the cores that this process may use, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
