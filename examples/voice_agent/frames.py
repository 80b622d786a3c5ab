"""Audio on the wire: frames of 20 ms, and the receiver's count of them.

A unidirectional stream carries one utterance (a prompt or an answer) and ends with it. A frame consists of a header in
network byte order and samples:

    sequence   uint32   from 0 in each direction of a call, over all its utterances
    utterance  uint32   from 0 in each direction
    sent       float64  time at which the sender made the frame, milliseconds since 1970
    length     uint16   octets of samples that follow, at most 640
    samples    16 bits each, little-endian as in a browser's Int16Array, 16,000 per second, one channel
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

SAMPLE_RATE: Final = 16_000
FRAME_S: Final = 0.02
SAMPLES_PER_FRAME: Final = 320
SAMPLES_BYTES: Final = 2 * SAMPLES_PER_FRAME
BUFFER_S: Final = 0.2
"""Time between the arrival of an utterance's first frame and its playback."""

_HEADER: Final = struct.Struct("!IIdH")


class Frame(NamedTuple):
    """20 ms of audio. sent_ms: time at which it was made, since 1970. samples: as on the wire."""

    sequence: int
    utterance: int
    sent_ms: float
    samples: bytes

    def encode(self) -> bytes:
        """Return the frame's octets."""
        return _HEADER.pack(self.sequence, self.utterance, self.sent_ms, len(self.samples)) + self.samples


class FrameReader:
    """Parser of one stream. It buffers less than one frame."""

    def __init__(self) -> None:
        """Start with an empty buffer."""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add data, and yield each complete frame. Raises ValueError if the length field exceeds the maximum."""
        self._rest += data
        while len(self._rest) >= _HEADER.size:
            sequence, utterance, sent_ms, length = _HEADER.unpack_from(self._rest)
            if length > SAMPLES_BYTES:
                raise ValueError(f"a frame has at most {SAMPLES_BYTES} octets of samples, not {length}")
            end = _HEADER.size + length
            if len(self._rest) < end:
                return
            samples, self._rest = self._rest[_HEADER.size : end], self._rest[end:]
            yield Frame(sequence, utterance, sent_ms, samples)


class Arrivals:
    """Statistics of the frames received in one direction of a call.

    received: number of frames. late: frames that arrived after their playback time, so that the listener heard a gap.
    longest_gap_s: the longest such gap. Times are arguments, in seconds of any single clock.
    """

    def __init__(self) -> None:
        """Start with zero frames."""
        self.received = 0
        self.late = 0
        self.longest_gap_s = 0.0
        self._highest = -1
        self._utterance = -1
        self._due_s = 0.0

    @property
    def missing(self) -> int:
        """Frames that have not arrived although a frame with a higher number has."""
        return self._highest + 1 - self.received

    def buffered_s(self, now_s: float) -> float:
        """Return the length of the audio that has arrived and is not yet played."""
        return max(0.0, self._due_s - now_s)

    def add(self, frame: Frame, now_s: float) -> None:
        """Count a frame. The first of an utterance is due BUFFER_S later: that is the play-out buffer."""
        self.received += 1
        self._highest = max(self._highest, frame.sequence)
        if frame.utterance != self._utterance:
            self._utterance = frame.utterance
            self._due_s = max(self._due_s, now_s + BUFFER_S)
        elif now_s > self._due_s:
            self.late += 1
            self.longest_gap_s = max(self.longest_gap_s, now_s - self._due_s)
            self._due_s = now_s
        self._due_s += FRAME_S
