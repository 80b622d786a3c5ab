"""Debian's ngtcp2 client: another QUIC stack, unmodified, that changes its address by itself.

``--change-local-addr`` opens a new local port and migrates as RFC 9000, section 9 says: it validates the path
and takes another connection ID. With ``--nat-rebinding`` it only leaves from the new port, as if a NAT had
forgotten it. Where a transfer must change its address again, the NAT of these tests does that.
"""

import asyncio
import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from lab.nat import Address

PROGRAM: Final = "gtlsclient"
needed: Final = pytest.mark.skipif(
    shutil.which(PROGRAM) is None, reason="the program gtlsclient is not here (Debian: ngtcp2-client)"
)
"""Marks a test that cannot do without the program."""
_IDLE_TIMEOUT: Final = "30s"
_OUTPUT_BYTES: Final = 4_000


class Mode(StrEnum):
    """What the client does about its own address."""

    STAY = "stay"
    MIGRATE = "migrate"
    NAT_REBINDING = "nat-rebinding"


class Download(NamedTuple):
    """How it ended. body: None where nothing was written. output: the end of what the program said."""

    exit_code: int
    body: bytes | None
    output: str


async def download(
    address: Address,
    path: str,
    folder: Path,
    *,
    mode: Mode = Mode.STAY,
    change_after: str = "100ms",
    upload: Path | None = None,
    to_preferred_address: bool = True,
) -> Download:
    """Fetch one path into a folder of its own, or POST a file to it and keep the answer.

    change_after: after the handshake, when the client changes its address (modes other than STAY).
    to_preferred_address: follow the server to the address that it prefers.
    The process is killed where the task is cancelled.
    """
    folder.mkdir(parents=True)
    process = await asyncio.create_subprocess_exec(
        *_command(address, path, folder, mode, change_after, upload),
        *(() if to_preferred_address else ("--no-preferred-addr",)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    file = folder / path.rpartition("/")[2]
    body = file.read_bytes() if file.exists() else None
    return Download(process.returncode or 0, body, output.decode(errors="replace")[-_OUTPUT_BYTES:])


def _command(
    address: Address, path: str, folder: Path, mode: Mode, change_after: str, upload: Path | None
) -> Sequence[str]:
    host, port = address
    change = {
        Mode.STAY: (),
        Mode.MIGRATE: (f"--change-local-addr={change_after}",),
        Mode.NAT_REBINDING: (f"--change-local-addr={change_after}", "--nat-rebinding"),
    }[mode]
    return (
        PROGRAM,
        *("--quiet", "--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close"),
        *(f"--timeout={_IDLE_TIMEOUT}", f"--download={folder}", *change),
        *(("--http-method=POST", f"--data={upload}") if upload else ()),
        *(host, str(port), f"https://localhost{path}"),
    )
