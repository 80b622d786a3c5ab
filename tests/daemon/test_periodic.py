"""Interfaces that are removed and created again, and get new numbers from the kernel."""

import logging

import pytest

from qlb.addresses import Endpoint
from qlb.daemon import periodic as interfaces
from qlb.daemon.periodic import Interfaces

GLOBAL = Endpoint("2001:db8::1", 443)
LINK_LOCAL = Endpoint("fe80::1%eth7", 443)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The interfaces that exist, by name. A test changes the dict."""
    found: dict[str, int] = {}

    def look_up(scope: str) -> int:
        if scope not in found:
            raise OSError(19, "no such interface")
        return found[scope]

    monkeypatch.setattr(interfaces, "interface_index", look_up)
    return found


def test_backends_follow_their_interface(numbers: dict[str, int]) -> None:
    """A change is reported once: when the interface appears, disappears or is created again."""
    watched = Interfaces()
    reported = []
    for number in (None, None, 5, 5, None, 9, 9):
        numbers.clear()
        numbers.update({} if number is None else {"eth7": number})
        reported.append(watched.have_changed([GLOBAL, LINK_LOCAL]))
    assert reported == [False, False, True, False, True, True, False]
    assert not watched.have_changed([GLOBAL])


def test_a_lost_listener_is_reported_once(numbers: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """A listener whose interface was created again is logged once: its socket gets no packets until a restart."""
    caplog.set_level(logging.WARNING)
    watched = Interfaces()
    watched.report_lost_listeners()
    numbers["eth7"] = 5
    watched.bound([GLOBAL, LINK_LOCAL])
    watched.report_lost_listeners()
    assert not caplog.records
    for number in (6, 7):
        numbers["eth7"] = number
        watched.report_lost_listeners()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "listen: the interface eth7 was removed or created again"
    ]
