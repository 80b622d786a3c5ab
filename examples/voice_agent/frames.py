"""The audio on the wire: frames of 20 ms, their numbers, and what the receiver of them has noticed.

One unidirectional stream carries one utterance, a prompt or an answer, and ends with it. A frame is a header in
network order and samples:

    sequence   uint32   from 0 in each direction of a call, over all its utterances
    utterance  uint32   from 0 in each direction
    sent       float64  when the sender made it, milliseconds since 1970
    length     uint16   octets of samples that follow, 640 at most
    samples    16 bits each, little-endian as in a browser's Int16Array, 16,000 a second, one channel
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

SAMPLE_RATE: Final = 16_000
FRAME_S: Final = 0.02
SAMPLES_PER_FRAME: Final = 320
SAMPLES_BYTES: Final = 2 * SAMPLES_PER_FRAME
BUFFER_S: Final = 0.2
"""So long a receiver waits with an utterance that has begun to arrive before it plays it."""

_HEADER: Final = struct.Struct("!IIdH")


class Frame(NamedTuple):
    """20 ms of audio. sent_ms: when it was made, since 1970. samples: as on the wire."""

    sequence: int
    utterance: int
    sent_ms: float
    samples: bytes

    def encode(self) -> bytes:
        """Return it as it is sent."""
        return _HEADER.pack(self.sequence, self.utterance, self.sent_ms, len(self.samples)) + self.samples


class FrameReader:
    """Cuts one stream into frames; keeps less than one."""

    def __init__(self) -> None:
        """Begin at the beginning of a stream."""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that is complete now. Raises ValueError where a frame is too long to be one."""
        self._rest += data
        while len(self._rest) >= _HEADER.size:
            sequence, utterance, sent_ms, length = _HEADER.unpack_from(self._rest)
            if length > SAMPLES_BYTES:
                raise ValueError(f"a frame has {SAMPLES_BYTES} octets of samples at most, not {length}")
            end = _HEADER.size + length
            if len(self._rest) < end:
                return
            samples, self._rest = self._rest[_HEADER.size : end], self._rest[end:]
            yield Frame(sequence, utterance, sent_ms, samples)


class Arrivals:
    """What has come in one direction of a call.

    received: frames. late: those that came after their time to be played, so that the listener heard a gap.
    longest_gap_s: the longest of these gaps. Time is an argument, in seconds of any one clock.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.received = 0
        self.late = 0
        self.longest_gap_s = 0.0
        self._highest = -1
        self._utterance = -1
        self._due_s = 0.0

    @property
    def missing(self) -> int:
        """Frames with a lower number than the highest one that are not there."""
        return self._highest + 1 - self.received

    def buffered_s(self, now_s: float) -> float:
        """Return how much has arrived that is yet to be played."""
        return max(0.0, self._due_s - now_s)

    def add(self, frame: Frame, now_s: float) -> None:
        """Count a frame. The first of an utterance is due a little later: that is the play-out buffer."""
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
