"""The memory that outlives a process of the daemon: written, read by the new process, harmless if it is invalid."""

import os

import pytest

from qlb.handover.memory import Memory, Remembered

SOME = Remembered({"a": "draining", "b": "active"}, {"a": True, "c": False}, former={"2": "0123abcd"})


def test_the_new_process_reads_it() -> None:
    """The new process reads the last state through another descriptor, even if it is shorter than the one before."""
    first = Memory()
    first.write(Remembered({"a much longer name": "draining"}, {"another": True}))
    first.write(SOME)
    second = Memory(os.dup(first.descriptor))
    first.close()
    assert second.read() == SOME
    second.close()


def test_an_empty_memory() -> None:
    """An empty memory contains no state. After close(), write() does nothing."""
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
def test_invalid_content_is_ignored(octets: bytes, found: Remembered) -> None:
    """Invalid content is ignored entry by entry, and nothing raises."""
    memory = Memory()
    os.pwrite(memory.descriptor, octets, 0)
    assert memory.read() == found
    memory.close()
