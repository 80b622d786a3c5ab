"""The facts in docs/ that a program can check: metrics, alerts, configuration keys, outcomes, log lines, notices."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lab.deploy.metric_names import exposed, rules
from qlb.config import json_schema
from qlb.observe import notices
from qlb.routing.outcomes import OUTCOMES, REASONS

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

_METRIC: Final = re.compile(r"\bqlb_[a-z_]+[a-z]\b")
_NO_METRICS: Final = frozenset({"qlb_limit"})
"""The table of deploy/nftables."""
_OTHER_NAMES: Final = frozenset({"architecture.md", "CHANGELOG.md"})
"""Pages with names of C functions, or of metrics of former versions."""
_FILE: Final = re.compile(r"[\w./-]*\w\.(?:py|c|h)\b")
"""The path or name of a source file."""
_FOLDER: Final = re.compile(r"`((?:qlb|lab|tests)/(?:\w+/)*)`")
_ALERT: Final = re.compile(r"\bQlb[A-Z]\w+")
_KEY: Final = re.compile(r"`(forwarding|fallback|drain|rotation|health|admin|logging)\.([a-z_]+)\b(?!\.)")
_CODE: Final = re.compile(r"`([^`]+)`")
_JOINED: Final = re.compile(r'"\s*\n\s*f?"')
"""The place where a string literal of the code continues on the next line."""


def section(page: str, heading: str) -> str:
    """Return the text below one heading of second or third level, up to the next heading of that level."""
    text = (DOCS / page).read_text()
    level = heading.partition(" ")[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    return re.split(rf"^#{{2,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def items(text: str) -> Iterator[str]:
    """Yield the first words of each item of a list: those before the colon, or the whole item."""
    for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        yield re.split(r"(?<=[`)]):\s|\.\s", item, maxsplit=1)[0]


def names(text: str) -> list[str]:
    """Return the code spans at the beginning of each item of a list."""
    return [name for item in items(text) for name in _CODE.findall(item)]


def test_every_metric_exists() -> None:
    """The pages name no metric that /metrics lacks."""
    known = exposed()
    known |= {re.sub(r"_(total|bucket|sum|count|info)$", "", name) for name in known} | _NO_METRICS
    pages = [page for page in PAGES if page.name not in _OTHER_NAMES]
    assert {page.name: lost for page in pages if (lost := set(_METRIC.findall(page.read_text())) - known)} == {}


def test_every_alert_exists() -> None:
    """The pages name no alert that the rules lack."""
    known = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {page.name: lost for page in PAGES if (lost := set(_ALERT.findall(page.read_text())) - known)} == {}


def test_every_key_exists() -> None:
    """The pages name no key of a section that the configuration lacks."""
    schema = json_schema()
    named = {(page.name, part, key) for page in PAGES for part, key in _KEY.findall(page.read_text())}
    assert len(named) > 20
    assert [one for one in sorted(named) if one[2] not in _keys(schema, one[1])] == []


def _keys(schema: dict[str, Any], part: str) -> dict[str, Any]:
    """Return the keys of a section: its schema is a reference, beside null."""
    _, _, name = schema["properties"][part]["anyOf"][0]["$ref"].rpartition("/")
    keys: dict[str, Any] = schema["$defs"][name]["properties"]
    return keys


def test_every_outcome_is_described() -> None:
    """The page for operators describes each reason to drop and each reason why an ID is unroutable."""
    text = section("operating.md", "## Outcomes")
    wanted = {outcome.name for outcome in OUTCOMES if outcome.route == "drop"} | set(REASONS)
    assert wanted - set(_CODE.findall(text)) == set()


def _sources() -> str:
    return "\n".join(_JOINED.sub("", path.read_text()) for path in sorted((ROOT / "qlb").rglob("*.py")))


def test_every_log_line_exists() -> None:
    """Each log line that the page for operators quotes is in the code; an ellipsis or N stands for a value."""
    sources = _sources()
    quoted = [name for name in names(section("operating.md", "## Logs")) if "`" not in name]
    fragments = {part.strip(" ,;:") for line in quoted for part in re.split(r"…|\bN\b", line)} - {""}
    assert len(fragments) > 40
    assert {one for one in fragments if one not in sources} == set()


def test_every_notice_exists() -> None:
    """Each kind of notice that the page about watching lists has its severity in the code, and each kind is listed."""
    headings = {"CRITICAL": "### Critical notices", "WARNING": "### Warnings", "INFO": "### Info"}
    listed = {(name, kind) for name, heading in headings.items() for kind in names(section("watching.md", heading))}
    source = (ROOT / "qlb/observe/notices.py").read_text()
    found = re.findall(r'(?:Notice|_some)\(\s*(CRITICAL|WARNING|INFO),\s*"(\w+)"', source)
    assert listed == {*found, ("WARNING", "rotation")}


def test_every_notice_names_a_section_that_exists() -> None:
    """The page that a notice names exists, with its heading."""
    for kind in notices._PAGES:
        page, _, anchor = notices.Notice(notices.INFO, kind, "").see.partition("#")
        headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, kind


def _unknown_files(text: str) -> set[str]:
    """Return the names of files in a section that exist in none of the folders that the section names.

    A path may begin in qlb/, as the page states. `qlb/wire/` and `wire/versions.py` name the folder of later names.
    """
    files = set(_FILE.findall(text))
    folders = {ROOT, ROOT / "qlb", *(ROOT / folder for folder in _FOLDER.findall(text))}
    folders |= {ROOT / start / Path(file).parent for file in files for start in ("", "qlb")}
    return {file for file in files if not any((folder / file).is_file() for folder in folders)}


def test_every_file_of_the_architecture_exists() -> None:
    """The page about the architecture names no file that does not exist."""
    sections = re.split(r"^##+ ", (DOCS / "architecture.md").read_text(), flags=re.MULTILINE)
    assert sum(len(_FILE.findall(text)) for text in sections) > 200
    assert set().union(*map(_unknown_files, sections)) == set()
    assert _unknown_files("`wire/versions.py`, invariants.py, `lost.py`, core/route.h") == {"lost.py", "core/route.h"}


def test_every_room_is_in_the_architecture() -> None:
    """The table of floors has each package and each module of qlb/, and no other room."""
    rooms = re.findall(r"^\| \S+ \| `(\S+)` \|", section("architecture.md", "## Floors"), flags=re.MULTILINE)
    found = [path for path in (ROOT / "qlb").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in found} - {"__init__.py", "__main__.py"}
    assert sorted(rooms) == sorted(names)
