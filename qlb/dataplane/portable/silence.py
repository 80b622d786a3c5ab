"""Sessions that get no answers any more although their clients talk.

A socket may be dead without an error: its IPv6 source address was removed (sends succeed for ever), or a NAT on the
way still translates to a target that is gone. A new socket helps in both cases. Clients count by marks: a mark is a
datagram at least _MARK_S after the mark before it, so that a burst of acknowledgements is one mark. An answer clears
the marks. A pause starts the count again. batch/silence.h does the same.
"""

from typing import Final

from qlb.dataplane.sessions import Session

_MARK_S: Final = 0.1
_MARKS: Final = 3
_SILENCE_S: Final = 0.5
"""From the first mark on."""
_PAUSE_S: Final = 1.0
"""Between two marks: a new count begins. Also the first wait between two sockets."""
_MAX_DOUBLINGS: Final = 4
"""The wait between two sockets: 1, 2, 4, 8, 16 s."""


def is_silent(session: Session, now_s: float) -> bool:
    """Note a datagram of the client. Return whether the session should get a new socket before it is sent."""
    if not session.is_answered or now_s - session.mark_s < _MARK_S:
        return False
    if not session.marks or now_s - session.mark_s > _PAUSE_S:
        session.marks = 0
        session.first_mark_s = now_s
    session.mark_s = now_s
    session.marks += 1
    return session.marks >= _MARKS and now_s - session.first_mark_s >= _SILENCE_S and now_s >= session.silence_until_s


def note_new_socket(session: Session, now_s: float, *, for_silence: bool) -> None:
    """Start the count again. for_silence: the next socket for this reason has to wait longer."""
    session.marks = 0
    if for_silence:
        session.silence_until_s = now_s + _PAUSE_S * 2**session.silences
        session.silences = min(session.silences + 1, _MAX_DOUBLINGS)


def note_answer(session: Session) -> None:
    """Note a datagram of the backend."""
    session.is_answered = True
    session.marks = session.silences = 0
