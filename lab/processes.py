"""What /proc tells of processes: who is whose child, and what each holds open."""

import os
from collections.abc import Iterator
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that one has started; none where it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (their number alone)


def with_argument(text: str) -> Iterator[tuple[int, str]]:
    """Yield (process ID, state) of everybody on whose command line something stands; a zombie has none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                yield int(folder.name), (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue


def is_daemon(pid: int) -> bool:
    """Whether a process is a supervisor, not a worker."""
    try:
        return b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
