"""The README and the pages beside it: every command runs as written, every target and every link exists."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from lab.site import reference

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED: Final = {f"reference/{name}" for name in reference.PAGES}
"""Pages that `make docs` writes into the site."""
LIMIT_S: Final = 300.0
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
    process = subprocess.Popen(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=LIMIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, errors
    return out


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
        if file in GENERATED:
            continue
        aim = page.parent / file if file else page
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            lost.append(f"{page.relative_to(ROOT)}: {file}#{anchor}")
    assert lost == []


def test_the_files_are_those_of_init(tmp_path: Path) -> None:
    """The YAML and the Python of the README are what `qlb init` writes, apart from ports that are in use."""
    (yaml,), (python,) = blocks("yaml"), blocks("python")
    shell("qlb init edge", tmp_path)
    written = (tmp_path / "edge/edge.yaml").read_text()
    for used, shown in zip(ports(tmp_path / "edge"), SHOWN_PORTS, strict=True):
        written = written.replace(f":{used}", f":{shown}").replace(f" {used}", f" {shown}")
    assert written == yaml
    assert (tmp_path / "edge/server.py").read_text() == python
    assert (ROOT / "examples/minimal_server.py").read_text() == python


@pytest.mark.usefixtures("usual_ports")
@pytest.mark.e2e
def test_all_commands_work_together(tmp_path: Path) -> None:
    """The shell commands run in their order, and forward a connection by its ID. Only ports are changed."""
    _, start, look, operate = blocks("sh")
    first, rest = start.split("\n", 1)
    shell(first, tmp_path)
    for used, shown in zip(ports(tmp_path / "edge"), SHOWN_PORTS, strict=True):
        rest = rest.replace(shown, used)
    end = "qlb status --json > status.json\nkill $(jobs -p)\nwait\n"
    printed = shell(f"{rest}{look}{operate}{end}", tmp_path)
    assert len(set(re.findall(r"^200 from (agent-[ab]), to port", printed, re.MULTILINE))) == 1
    assert len(re.findall(r"^200 from ", printed, re.MULTILINE)) == 4
    assert 'server_ids:\n  - "c0ffee01"' in printed
    status = json.loads((tmp_path / "edge/status.json").read_text())
    assert status["outcomes"]["cid_config_1"] > 0


SHOWN_PORTS: Final = ("4433", "5001", "5002", "9464")


def ports(folder: Path) -> list[str]:
    """Return the ports that `qlb init` has chosen: of the service, of both servers and of the admin server."""
    return re.findall(r"127\.0\.0\.1:(\d+)", (folder / "edge.yaml").read_text())
