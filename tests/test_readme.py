"""The README and the pages beside it: every command runs as written, every target and every link exists."""

import ast
import asyncio
import json
import os
import re
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

from lab.ports import free_port
from qlb.demo.http3 import make_certificate

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LIMIT_S: Final = 120.0
ENVIRONMENT: Final = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""The commands of the README find the qlb that is installed beside this Python."""

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCED: Final = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_TARGET: Final = re.compile(r"^([a-z-]+):(?!=)(.*)$", re.MULTILINE)


def blocks(language: str) -> list[str]:
    """Return the code blocks of the README in one language."""
    return [text for found, text in _BLOCK.findall(README) if found == language]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def targets() -> Mapping[str, str]:
    """Return the targets of the Makefile with the rest of their lines."""
    return dict(_TARGET.findall((ROOT / "Makefile").read_text()))


def shell(script: str, folder: Path) -> str:
    """Run a block of shell commands in a folder; return its output. Every command must exit with 0."""
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_two_commands_come_first() -> None:
    """A newcomer starts with `make run` and `make test`."""
    first, *_ = blocks("sh")
    assert [line.partition("#")[0].strip() for line in first.splitlines()] == ["make run", "make test"]


def test_every_make_target_exists() -> None:
    """Each `make` command of the README and of CONTRIBUTING.md names a target of the Makefile."""
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert len(named) > 5
    assert set(named) <= targets().keys()


def test_make_help_lists_every_target() -> None:
    """`make help` prints one line for each target, with its purpose."""
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split(maxsplit=1) for line in printed.splitlines()]
    assert [name for name, _ in lines] == list(targets())
    assert all(purpose for _, purpose in lines)


def links() -> Iterator[tuple[Path, str, str]]:
    """Yield the links between pages: page, file and anchor, each of the two possibly empty."""
    for page in PAGES:
        for file, anchor in _LINK.findall(_FENCED.sub("", page.read_text())):
            if "://" not in file:
                yield page, file, anchor


def test_every_link_leads_somewhere() -> None:
    """A link finds its file, and an anchor finds its heading."""
    lost = []
    for page, file, anchor in links():
        aim = page.parent / file if file else page
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            lost.append(f"{page.relative_to(ROOT)}: {file}#{anchor}")
    assert lost == []


@pytest.mark.e2e
async def test_the_three_things_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML, the Python and the shell commands forward a connection by its ID. Only ports are changed."""
    listen, backend, admin = (free_port() for _ in range(3))

    def moved(text: str) -> str:
        return text.replace("4433", str(listen)).replace("5001", str(backend))

    _, prepare, run, operate = blocks("sh")
    (yaml,), (python,) = blocks("yaml"), blocks("python")
    own_admin = f"admin:\n  listen: 127.0.0.1:{admin}\n"
    (tmp_path / "edge.yaml").write_text(moved(yaml).replace("admin:\n", own_admin))
    assert "c0ffee01" in await asyncio.to_thread(shell, prepare, tmp_path)

    monkeypatch.chdir(tmp_path)
    server = await _serve(moved(python), tmp_path)
    daemon = await asyncio.create_subprocess_exec(
        *shlex.split(run), cwd=tmp_path, env=ENVIRONMENT, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            await _until_ready(daemon)
            await _ping("127.0.0.1", listen)
            await asyncio.to_thread(shell, operate, tmp_path)
            status = await asyncio.to_thread(shell, "qlb status --json --socket qlb.sock", tmp_path)
    finally:
        server.close()
        daemon.terminate()
        _, log = await daemon.communicate()
    assert daemon.returncode == 0, log
    assert json.loads(status)["outcomes"]["cid_config_1"] > 0


async def _serve(python: str, folder: Path) -> QuicServer:
    """Run the Python block of the README with an aioquic configuration; return its server."""
    quic = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    quic.load_cert_chain(*make_certificate().write(folder))
    names: dict[str, Any] = {"quic": quic}
    await eval(compile(python, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    server: QuicServer = names["server"]
    return server


async def _until_ready(daemon: asyncio.subprocess.Process) -> None:
    assert daemon.stderr is not None, "it was started with a pipe"
    lines = []
    while b" ready " not in (line := await daemon.stderr.readline()):
        lines.append(line)
        assert line, b"".join(lines)


async def _ping(host: str, port: int) -> None:
    """Open a connection through the balancer and get an answer to a ping."""
    quic = QuicConfiguration(is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    async with connect(host, port, configuration=quic) as client:
        await client.ping()
