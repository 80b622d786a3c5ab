"""What a service manager is told, and that nothing depends on there being one."""

import gc
import os
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.service_manager import managing
from qlb.cli import cli
from qlb.handover.systemd import START_S, Notifier, Service


@pytest.mark.parametrize(
    "abstract",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")),
    ],
)
def test_it_tells(tmp_path: Path, abstract: bool) -> None:
    """One datagram for each message, one field a line; a line break in a value breaks nothing."""
    with managing(tmp_path, abstract=abstract) as manager:
        Notifier({"NOTIFY_SOCKET": manager.name}).tell(READY=1, STATUS="all\nis well")
        assert manager.hear() == [{"READY": "1", "STATUS": "all is well"}]


def test_descriptors_go_along(tmp_path: Path) -> None:
    """The manager has the same file, not another one."""
    with managing(tmp_path) as manager, socket.socket(socket.AF_UNIX) as sock:
        Notifier({"NOTIFY_SOCKET": manager.name}).tell([sock.fileno()], FDSTORE=1, FDNAME="one")
        ((name, descriptor),) = manager.descriptors()
        assert (name, os.path.sameopenfile(descriptor, sock.fileno())) == ("one", True)
        os.close(descriptor)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_where_nobody_listens(environ: dict[str, str]) -> None:
    """Nothing happens."""
    Notifier(dict(environ)).tell(READY=1)


def test_what_is_for_this_process_is_taken_out() -> None:
    """Children do not speak for the daemon; the next process is told how to."""
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    notifier = Notifier(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog_s == 3
    assert notifier.environ == {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000"}
    notifier.leave()
    assert (notifier.has_manager, notifier.watchdog_s, notifier.environ) == (False, None, {})


@pytest.mark.parametrize(("microseconds", "pid"), [("3000000", "1"), ("0", ""), ("soon", ""), ("", "")])
def test_no_watchdog_is_asked_for(microseconds: str, pid: str) -> None:
    """It is for another process, or it is no time."""
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": pid}
    assert Notifier(environ).watchdog_s is None


def test_a_long_start_asks_for_time(tmp_path: Path) -> None:
    """Thousands of backends take longer than a unit's TimeoutStartSec."""
    with managing(tmp_path) as manager:
        Service(Notifier({"NOTIFY_SOCKET": manager.name})).starting()
        assert manager.hear() == [{"EXTEND_TIMEOUT_USEC": str(round(START_S * 1_000_000))}]


def test_time_is_asked_for_before_the_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that is wrong: that is not known yet."""
    with managing(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
        CliRunner().invoke(cli, ["run", str(tmp_path / "absent.yaml")])
        assert manager.said("EXTEND_TIMEOUT_USEC")
    assert gc.isenabled()
