"""Tests of the voice agent's frames on the wire, and of the receiver's counts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.voice_agent.frames import BUFFER_S, FRAME_S, SAMPLES_BYTES, Arrivals, Frame, FrameReader
from examples.voice_agent.speech import say_name

FRAMES = st.builds(
    Frame,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1e15),
    st.binary(max_size=SAMPLES_BYTES),
)


@given(st.lists(FRAMES, max_size=4), st.integers(1, 700))
def test_frames_are_parsed_from_any_pieces(frames: list[Frame], piece: int) -> None:
    """However a stream is split, its frames are found, each once it is complete."""
    octets = b"".join(frame.encode() for frame in frames)
    reader = FrameReader()
    found = [frame for at in range(0, len(octets), piece) for frame in reader.feed(octets[at : at + piece])]
    assert found == frames


@given(st.binary(max_size=2000))
def test_any_octets_are_frames_or_rejected(octets: bytes) -> None:
    """A frame that would be too long is rejected at once, before its octets arrive."""
    try:
        frames = list(FrameReader().feed(octets))
    except ValueError:
        return
    assert sum(len(frame.encode()) for frame in frames) <= len(octets)


def test_the_error_of_a_long_frame_names_its_length() -> None:
    """The error names the announced length of the frame."""
    with pytest.raises(ValueError, match="at most 640 octets of samples, not 641"):
        list(FrameReader().feed(Frame(0, 0, 0.0, bytes(641)).encode()))


def arrivals(*frames: tuple[float, int, int]) -> Arrivals:
    """Return a receiver's counts after these frames: (time, sequence, utterance)."""
    counted = Arrivals()
    for now_s, sequence, utterance in frames:
        counted.add(Frame(sequence, utterance, 0.0, b""), now_s)
    return counted


def test_missing_frames_are_those_below_the_highest() -> None:
    """A missing frame counts until it arrives."""
    assert arrivals((0, 0, 0), (0, 3, 0)).missing == 2
    assert arrivals((0, 0, 0), (0, 3, 0), (0, 1, 0), (0, 2, 0)).missing == 0


def test_a_frame_is_late_when_the_buffer_is_empty() -> None:
    """The gap is what a listener would notice; the frames after it are due later by the same time."""
    assert arrivals((0, 0, 0), (BUFFER_S + FRAME_S, 1, 0)).late == 0
    found = arrivals((0, 0, 0), (1, 1, 0), (1, 2, 0))
    assert (found.late, found.longest_gap_s) == (1, pytest.approx(1 - BUFFER_S - FRAME_S))
    assert found.buffered_s(1) == pytest.approx(2 * FRAME_S)


def test_the_next_utterance_waits_for_the_current_one() -> None:
    """A frame that arrives during playback of another utterance, or after a pause, is not late."""
    found = arrivals((0, 0, 0), (0, 1, 0), (0, 2, 1), (9, 3, 2))
    assert found.late == 0
    assert arrivals((0, 0, 0), (0, 1, 0), (0, 2, 1)).buffered_s(0) == pytest.approx(BUFFER_S + 3 * FRAME_S)


def test_agents_sound_different() -> None:
    """Each letter has its own sound, in whole frames, loud but not clipped; so has an empty name."""
    sounds = [say_name(name) for name in ("agent-a", "agent-b", "agent-c", "agent-9")]
    assert all(before != after for before, after in pairwise(sounds))
    for frames in [*sounds, say_name("")]:
        assert {len(samples) for samples in frames} == {SAMPLES_BYTES}
        assert max(map(abs, memoryview(b"".join(frames)).cast("h"))) == 9000
