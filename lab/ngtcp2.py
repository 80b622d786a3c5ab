"""Debian's ngtcp2 client: another, unmodified QUIC stack that changes its own address.

``--change-local-addr`` opens a new local port and migrates as in RFC 9000, section 9: it validates the path and uses
another connection ID. With ``--nat-rebinding`` it only sends from the new port, as after a NAT rebinding. If a transfer
must change its address again, the NAT of these tests does that.
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
    shutil.which(PROGRAM) is None, reason="the program gtlsclient is not installed (Debian: ngtcp2-client)"
)
"""Skips a test if the program is missing."""
_IDLE_TIMEOUT: Final = "30s"
_OUTPUT_BYTES: Final = 4_000


class Mode(StrEnum):
    """The way in which the client changes its own address."""

    STAY = "stay"
    MIGRATE = "migrate"
    NAT_REBINDING = "nat-rebinding"


class Download(NamedTuple):
    """The result of a download. body: None without an output file. output: the end of the program's output."""

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
    """Fetch one path into a new folder, or POST a file to it and store the answer there.

    change_after: the time from the handshake to the client's change of address (modes other than STAY).
    to_preferred_address: whether the client follows the server to its preferred address. If the task is cancelled, the
    process is killed.
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
