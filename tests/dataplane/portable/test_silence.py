"""A session without answers gets a new socket. The clock is injected."""

import socket
from collections.abc import Iterator

import pytest

from qlb.addresses import Endpoint
from qlb.dataplane.portable.admission import SendGate
from qlb.dataplane.portable.sessions import Session, is_silent, note_answer, note_new_socket


@pytest.fixture
def session() -> Iterator[Session]:
    """Make a session that was answered at second 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        session = Session((("127.0.0.1", 1), "127.0.0.1", SendGate(sock), 0), Endpoint("127.0.0.1", 2), 63, 0.0)
        note_answer(session)
        yield session


def first_silence(session: Session, begin_s: float, step_s: float, count: int) -> float | None:
    """Return the time of the first datagram of a steady client that finds the session silent."""
    times = [begin_s + number * step_s for number in range(count)]
    return next((now_s for now_s in times if is_silent(session, now_s)), None)


@pytest.mark.parametrize(("step_s", "silent_at_s"), [(0.02, 1.5), (0.1, 1.5), (0.25, 1.5), (0.3, 1.6), (0.9, 2.8)])
def test_half_a_second_and_three_datagrams(session: Session, step_s: float, silent_at_s: float) -> None:
    """A session is silent after three datagrams and half a second, at any rate; fast ones count once in 100 ms."""
    found = first_silence(session, 1.0, step_s, 100)
    assert found == pytest.approx(silent_at_s, abs=0.05)


def test_a_slow_client_a_burst_and_an_unanswered_session_are_not_silent(session: Session) -> None:
    """Keep-alives each 1.1 s, a burst of 0.4 s and a session that was never answered are not silent."""
    assert first_silence(session, 1.0, 1.1, 100) is None
    assert first_silence(session, 1000.0, 0.001, 400) is None
    session.is_answered = False
    assert first_silence(session, 2000.0, 0.1, 100) is None


def test_an_answer_starts_the_count_again(session: Session) -> None:
    """An answer or a new socket restarts the count."""
    for now_s in (1.0, 1.2, 1.4):
        assert not is_silent(session, now_s)
    note_answer(session)
    assert first_silence(session, 1.6, 0.2, 100) == pytest.approx(2.2)
    note_new_socket(session, 2.2, for_silence=False)
    assert first_silence(session, 2.4, 0.2, 100) == pytest.approx(3.0)


def test_sockets_in_a_row_wait_longer_and_longer(session: Session) -> None:
    """The waits are 1, 2, 4, 8 and then 16 s; after an answer, the next wait is 1 s again."""
    now_s, waits = 1.0, []
    for _ in range(7):
        found = first_silence(session, now_s, 0.1, 1000)
        assert found is not None
        waits.append(found - now_s)
        note_new_socket(session, found, for_silence=True)
        now_s = found + 0.1
    assert waits == pytest.approx([0.5, 0.9, 1.9, 3.9, 7.9, 15.9, 15.9], abs=0.15)
    note_answer(session)
    session.silence_until_s = 0.0
    found = first_silence(session, now_s, 0.1, 1000)
    assert found is not None
    note_new_socket(session, found, for_silence=True)
    assert session.silence_until_s == pytest.approx(found + 1)
