"""A real systemd, as process 1 of namespaces that end with the test."""

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

# All paths that the manager and its services could write to are private or read-only. The manager loads only the
# test's units, because the system's units would manage the whole machine.
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
mount --bind "$SOURCE/qlb" /opt/source/qlb  # the checkout may be in a folder that only its owner can enter
cp "$FILES/qlb" /opt/qlb/bin/qlb
cp -r "$FILES"/units/* /opt/units/
for folder in /tmp /var/tmp /root /home; do mount -t tmpfs tmpfs $folder; done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
mount --make-rshared /  # systemd moves mounts between its namespaces; none leaves this one
cd /
if [ -n "$BPF" ]; then
  mount -t bpf bpf /sys/fs/bpf
  systemd-sysusers /opt/units/qlb.sysusers.conf
  systemd-tmpfiles --create /opt/units/qlb.tmpfiles.conf  # only this file; nothing is cleaned
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
    """A running systemd manager."""

    def __init__(self, pid: int) -> None:
        """Use systemd() instead. pid: the manager's, outside its namespaces."""
        self._pid = pid

    @property
    def log(self) -> str:
        """The text that the manager's services have written to stderr."""
        try:
            return Path(f"/proc/{self._pid}/root{_LOG}").read_text(errors="replace")
        except OSError:
            return ""

    async def run(self, *arguments: str) -> str:
        """Run a command, such as systemctl, beside the manager; check that it exits with 0, and return its output."""
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
        """Return the values of a unit's properties."""
        found = await self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        values = dict(line.split("=", 1) for line in found.splitlines())
        return [values[name] for name in names]


@asynccontextmanager
async def systemd(folder: Path, *units: str, prefix: Sequence[str] = ()) -> AsyncIterator[Systemd]:
    """Run systemd with these units of deploy/systemd, and with FOLDER/etc/qlb as /etc/qlb. No unit is started.

    units: also paths of drop-ins and of sysusers files; with a drop-in, a bpffs is mounted. prefix: precedes the
    command, for example to enter another network. The test is skipped if systemd cannot run here.
    """
    lack = what_lacks()
    if lack:
        pytest.skip(f"cannot run systemd: {lack}")
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
                assert process.returncode is None, "systemd has exited; its output is above"
                await asyncio.sleep(_POLL_S)
        yield manager
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)  # the kernel then kills the manager and its whole PID namespace
        await process.wait()
        await _remove(group)


def what_lacks() -> str:
    """Return what this machine lacks to run systemd, or "" if it can."""
    if os.geteuid():
        return "it needs root"
    if not Path(PROGRAM).exists():
        return "systemd is not installed (Debian: systemd)"
    try:
        _unified()
    except LookupError:
        return "cgroup version 2 is not mounted, or is read-only"
    if not shutil.which("unshare"):
        return "unshare is missing (Debian: util-linux)"
    tried = ("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--mount-proc", "true")
    return "" if subprocess.run(tried, check=False).returncode == 0 else "this system cannot create namespaces"


def _unified() -> Path:
    """Return the path where cgroup version 2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(mount_point, os.W_OK):
            return Path(mount_point)
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
    """Remove a cgroup and its children; they are empty once their processes have ended."""
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
