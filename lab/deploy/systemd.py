"""A systemd of its own: the real one, as process 1 of namespaces that end with the test."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from lab.deploy.tools import DEPLOY, REPOSITORY

PROGRAM: Final = "/lib/systemd/systemd"
_START_S: Final = 90.0
_POLL_S: Final = 0.05
_COMMAND_S: Final = 240.0

# All that the manager and its services could write to is private to them, or cannot be written; and the manager knows
# no units but those of the test, since those of the system look after the whole machine.
_BOOT: Final = r"""
set -e
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
cp -r "$FILES/etc/qlb" /etc/qlb
mount -t tmpfs tmpfs /opt
mkdir -p /opt/qlb/bin /opt/python /opt/packages /opt/source/qlb /opt/units
mount --bind "$BASE" /opt/python
mount --bind "$PACKAGES" /opt/packages
mount --bind "$SOURCE/qlb" /opt/source/qlb  # the checkout itself may be a folder that only its owner may enter
cp "$FILES/qlb" /opt/qlb/bin/qlb
cp -r "$FILES"/units/* /opt/units/
for place in /tmp /var/tmp /root /home; do mount -t tmpfs tmpfs $place; done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
mount --make-rshared /  # systemd moves mounts between its namespaces; none comes out of this one
cd /
if [ -n "$BPF" ]; then
  mount -t bpf bpf /sys/fs/bpf
  systemd-sysusers /opt/units/qlb.sysusers.conf
  systemd-tmpfiles --create /opt/units/qlb.tmpfiles.conf  # this one file, and nothing is cleaned
fi
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/opt/units "$PROGRAM" --system \
  --unit=only.target --log-target=null --show-status=no
"""
_QLB: Final = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONHOME=/opt/python
export PYTHONPATH=/opt/source:/opt/packages PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python3 -m qlb "$@"
"""
_LOG: Final = "/run/log"
_LOGGED: Final = f"[Service]\nStandardError=append:{_LOG}\n"
_TARGETS: Final = ("only", "sysinit", "basic", "network-online", "shutdown", "sockets")
_TARGET: Final = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"


class Systemd:
    """The manager."""

    def __init__(self, pid: int) -> None:
        """Use systemd() instead. pid: of the manager, outside of its namespaces."""
        self._pid = pid

    @property
    def log(self) -> str:
        """What its services have written to stderr."""
        try:
            return Path(f"/proc/{self._pid}/root{_LOG}").read_text(errors="replace")
        except OSError:
            return ""

    async def run(self, *arguments: str) -> str:
        """Run a command beside the manager, such as systemctl; return all that it prints. It must end with 0."""
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--target={self._pid}", "--mount", "--pid", "--net", "--", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(_COMMAND_S):
            output = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{arguments}: {output}\n{self.log}"
        return output

    async def show(self, unit: str, *names: str) -> list[str]:
        """Return properties of a unit."""
        found = await self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in found.splitlines())
        return [values[name] for name in names]


@asynccontextmanager
async def systemd(folder: Path, *units: str, prefix: Sequence[str] = ()) -> AsyncIterator[Systemd]:
    """Run it, with these units of deploy/systemd as they are, and FOLDER/etc/qlb as /etc/qlb; nothing is started yet.

    units: paths of drop-ins and of sysusers' files too; a drop-in comes with a bpffs. prefix: of the command line, such
    as another network's. Skips where it cannot be had.
    """
    lack = what_lacks()
    if lack:
        pytest.skip(f"no systemd of its own: {lack}")
    _write_files(folder, units)
    group = _unified() / f"qlb-test-{os.getpid()}"
    group.mkdir()
    environment = {
        "BASE": sys.base_prefix,
        "BPF": "yes" if any("/" in unit for unit in units) else "",
        "FILES": str(folder),
        "PACKAGES": sysconfig.get_path("platlib"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PROGRAM": PROGRAM,
        "SOURCE": str(REPOSITORY),
    }
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", "unshare", "--kill-child", "--fork"),
        *("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc", "sh", "-c", _BOOT),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_START_S):
            manager = Systemd(await _child_of(process.pid))
            while not await _is_up(manager):
                assert process.returncode is None, "it has ended; what was wrong is above"
                await asyncio.sleep(_POLL_S)
        yield manager
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)  # and the kernel ends its child, the manager, and all of its namespace
        await process.wait()
        await _remove(group)


def what_lacks() -> str:
    """Return what this machine lacks for it; "" where nothing is missing."""
    if os.geteuid():
        return "only root can"
    if not Path(PROGRAM).exists():
        return "systemd is not installed (Debian: systemd)"
    try:
        _unified()
    except LookupError:
        return "there is no unified hierarchy of cgroups"
    if not shutil.which("unshare"):
        return "unshare is missing (Debian: util-linux)"
    tried = ("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc", "true")
    return "" if subprocess.run(tried, check=False).returncode == 0 else "this system makes no namespaces"


def _unified() -> Path:
    """Return where cgroups, version 2, are mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return Path(place)
    raise LookupError


def _write_files(folder: Path, units: tuple[str, ...]) -> None:
    (folder / "units").mkdir()
    for unit in units:
        (folder / "units" / unit).parent.mkdir(exist_ok=True)
        shutil.copy(DEPLOY / "systemd" / unit, folder / "units" / unit)
        if unit.endswith(".service"):
            drop_ins = folder / "units" / f"{unit}.d"
            drop_ins.mkdir(exist_ok=True)
            (drop_ins / "log.conf").write_text(_LOGGED)
    for name in _TARGETS:
        (folder / "units" / f"{name}.target").write_text(_TARGET)
    (folder / "qlb").write_text(_QLB)
    (folder / "qlb").chmod(0o755)


async def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not (found := children.read_text().split()):
        await asyncio.sleep(_POLL_S)
    return int(found[0])


async def _is_up(manager: Systemd) -> bool:
    if "systemd" not in Path(f"/proc/{manager._pid}/comm").read_text():
        return False
    try:
        return "only.target" in await manager.run("systemctl", "list-units", "--no-legend", "only.target")
    except AssertionError:
        return False


async def _remove(group: Path) -> None:
    """Remove a group and those within; they are empty once their processes are gone."""
    for _ in range(100):
        try:
            for each in sorted(group.rglob("*"), reverse=True):
                if each.is_dir():
                    each.rmdir()
            group.rmdir()
        except OSError:
            await asyncio.sleep(_POLL_S)
        else:
            return
