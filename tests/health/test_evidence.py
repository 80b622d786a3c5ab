"""Evidence from real traffic and from this node's errors, without sockets and without a clock."""

import errno
import logging

import pytest

from qlb.health.verdict import NOT_PERMITTED, Exchange, OwnErrors, TrafficEvidence, own_error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(errno.EAGAIN, "no port"), "EAGAIN"),
        (OSError(errno.EADDRNOTAVAIL, "no address"), "EADDRNOTAVAIL"),
        (OSError(errno.EMFILE, "too many"), "EMFILE"),
        (OSError(errno.ENFILE, "too many"), "ENFILE"),
        (OSError(errno.ENOBUFS, "no buffers"), "ENOBUFS"),
        (OSError(errno.ENOMEM, "no memory"), "ENOMEM"),
        (OSError(errno.ENOSPC, "too many watches"), "ENOSPC"),
        (MemoryError(), "ENOMEM"),
        (OSError(errno.EPERM, "not permitted"), NOT_PERMITTED),
        (OSError(errno.EACCES, "a prohibit route"), ""),
        (OSError(errno.ECONNREFUSED, "refused"), ""),
        (OSError(errno.ENETUNREACH, "no route"), ""),
        (OSError(errno.ENODEV, "no interface"), ""),
        (OSError("no number"), ""),
        (ValueError("not of the system"), ""),
    ],
)
def test_whose_fault_an_error_is(error: Exception, name: str) -> None:
    """Only errors of this node's resources and rules are its own. Errors of the path concern clients' packets too."""
    assert own_error(error) == name


def test_answers_count_from_the_first_look_on() -> None:
    """Answers from before the first look are no evidence, and neither is a counter that restarts at zero."""
    evidence = TrafficEvidence(Exchange(10, 10))
    evidence.note(Exchange(10, 10), 1.0)
    assert not evidence.has_answered(0.0)
    evidence.note(Exchange(11, 11), 2.0)
    assert evidence.has_answered(2.0)
    assert not evidence.has_answered(2.1)
    evidence.note(Exchange(0, 0), 3.0)
    assert not evidence.has_answered(2.1)


def test_was_asked_is_about_the_last_two_looks() -> None:
    """was_asked is true only for a look whose count has more packets to the backend than the one before."""
    evidence = TrafficEvidence(Exchange())
    asked = []
    for forwarded in (0, 1, 1, 2):
        evidence.note(Exchange(forwarded), float(forwarded))
        asked.append(evidence.was_asked)
    assert asked == [False, True, False, True]


def test_own_errors_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each error is logged once, however many backends it concerns, and so is its end."""
    caplog.set_level(logging.INFO)
    errors = OwnErrors()
    for name in ("a", "b", "a"):
        errors.take(name, "EMFILE", "too many files")
    errors.take("b", "EAGAIN", "no port")
    assert errors.counts == {"EMFILE": 3, "EAGAIN": 1}
    assert errors.current == "EAGAIN"
    errors.take("b", "", "")
    assert errors.current == "EMFILE"
    errors.take("a", "", "")
    errors.take("a", "", "")
    assert errors.current == ""
    assert [record.message for record in caplog.records] == [
        "this node cannot send probes",
        "this node cannot send probes",
        "this node can send probes again",
    ]


def test_a_backend_that_has_left_has_no_error() -> None:
    """A backend that has left has no error any more: no later probe could end it."""
    errors = OwnErrors()
    errors.take("a", "EMFILE", "too many files")
    errors.forget("a")
    errors.forget("unknown")
    assert errors.current == ""
