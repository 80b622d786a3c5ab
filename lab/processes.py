"""Facts about processes from /proc: children, open descriptors, command lines."""

import os
from collections.abc import Iterator
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children of a process. Empty if it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (their number alone)


def with_argument(text: str) -> Iterator[tuple[int, str]]:
    """Yield (process ID, state) of each process with a text in its command line. A zombie has no command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                yield int(folder.name), (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue


def is_daemon(pid: int) -> bool:
    """Return whether a process is a supervisor, and not a worker."""
    try:
        return b"\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
