"""Anonymous files, with and without the kernel's memfd_create()."""

import errno
import os

import pytest

from qlb.handover.memory import open_anonymous


def refuse(name: str, flags: int) -> int:
    """Fail as memfd_create() fails in a sandbox."""
    raise OSError(errno.ENOSYS, f"memfd_create({name}, {flags}) is not implemented")


@pytest.mark.parametrize("memfd", ["as it is", "refused", "unknown"])
def test_it_can_be_written_and_read(memfd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is empty at first, is not inherited, and disappears with its last descriptor."""
    if memfd == "refused":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    elif memfd == "unknown":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = open_anonymous("qlb-test")
    try:
        assert os.fstat(descriptor).st_size == 0
        assert os.fstat(descriptor).st_nlink == 0
        assert not os.get_inheritable(descriptor)
        os.pwrite(descriptor, b"counters", 0)
        assert os.pread(descriptor, 100, 0) == b"counters"
    finally:
        os.close(descriptor)
