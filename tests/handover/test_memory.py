"""What outlives a process of the daemon: written, read by the next one, harmless where it is not what it should be."""

import os

import pytest

from qlb.handover.memory import Memory, Remembered

SOME = Remembered({"a": "draining", "b": "active"}, {"a": True, "c": False}, former={"2": "0123abcd"})


def test_the_next_process_reads_it() -> None:
    """What was written last, though it is shorter; through another descriptor, after the first is closed."""
    first = Memory()
    first.write(Remembered({"a much longer name": "draining"}, {"another": True}))
    first.write(SOME)
    second = Memory(os.dup(first.descriptor))
    first.close()
    assert second.read() == SOME
    second.close()


def test_an_empty_one() -> None:
    """Nothing is remembered, and nothing is wrong."""
    memory = Memory()
    assert memory.read() == Remembered()
    memory.close()
    memory.close()
    memory.write(SOME)


@pytest.mark.parametrize(
    ("octets", "found"),
    [
        (b"\xff\xfe", Remembered()),
        (b'{"states": {"a"', Remembered()),
        (b"[1, 2]", Remembered()),
        (b'{"states": [], "healthy": null}', Remembered()),
        (
            b'{"states": {"a": 1, "b": "active"}, "healthy": {"c": "yes", "d": false}}',
            Remembered({"b": "active"}, {"d": False}),
        ),
        (b'{"healthy": {"a": true}, "more": 1}\n{"rest of": "something longer"}', Remembered({}, {"a": True})),
    ],
)
def test_what_it_cannot_understand_is_left_out(octets: bytes, found: Remembered) -> None:
    """Whatever stands there: nothing raises."""
    memory = Memory()
    os.pwrite(memory.descriptor, octets, 0)
    assert memory.read() == found
    memory.close()
