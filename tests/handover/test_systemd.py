"""Messages to a service manager. The daemon also works without one."""

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
def test_a_message(tmp_path: Path, abstract: bool) -> None:
    """A message is one datagram with one field on each line. Line breaks in a value become blanks."""
    with managing(tmp_path, abstract=abstract) as manager:
        Notifier({"NOTIFY_SOCKET": manager.name}).notify(READY=1, STATUS="all\nis well")
        assert manager.receive() == [{"READY": "1", "STATUS": "all is well"}]


def test_a_message_with_descriptors(tmp_path: Path) -> None:
    """The manager gets a descriptor of the same open file."""
    with managing(tmp_path) as manager, socket.socket(socket.AF_UNIX) as sock:
        Notifier({"NOTIFY_SOCKET": manager.name}).notify([sock.fileno()], FDSTORE=1, FDNAME="one")
        ((name, descriptor),) = manager.descriptors()
        assert (name, os.path.sameopenfile(descriptor, sock.fileno())) == ("one", True)
        os.close(descriptor)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_manager(environ: dict[str, str]) -> None:
    """Without a manager, a message is dropped without an error."""
    Notifier(dict(environ)).notify(READY=1)


def test_children_do_not_inherit_the_variables() -> None:
    """Children do not inherit the manager's variables, but the new process gets them. leave() ends all messages."""
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    notifier = Notifier(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog_s == 3
    assert notifier.environ == {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": "3000000"}
    notifier.disable()
    assert (notifier.watchdog_s, notifier.environ) == (None, {})


@pytest.mark.parametrize(("microseconds", "pid"), [("3000000", "1"), ("0", ""), ("soon", ""), ("", "")])
def test_no_watchdog_for_this_process(microseconds: str, pid: str) -> None:
    """A watchdog for another process, or with an invalid time, is ignored."""
    environ = {"NOTIFY_SOCKET": "/a", "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": pid}
    assert Notifier(environ).watchdog_s is None


def test_a_long_start_requests_time(tmp_path: Path) -> None:
    """The daemon requests more start time, because thousands of backends may take longer than TimeoutStartSec."""
    with managing(tmp_path) as manager:
        Service(Notifier({"NOTIFY_SOCKET": manager.name})).starting()
        assert manager.receive() == [{"EXTEND_TIMEOUT_USEC": str(round(START_S * 1_000_000))}]


def test_time_is_requested_before_the_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start time is requested before the configuration is read, even if it turns out to be wrong."""
    with managing(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
        CliRunner().invoke(cli, ["run", str(tmp_path / "absent.yaml")])
        assert manager.values("EXTEND_TIMEOUT_USEC")
    assert gc.isenabled()
