"""The facts in docs/ that a program can check: links, commands, metrics, alerts, keys, outcomes, log lines, notices."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from lab.deploy.metric_names import exposed, rules
from lab.site.reference import PAGES as REFERENCE
from qlb.cli import cli
from qlb.config import json_schema
from qlb.observe import notices
from qlb.routing.outcomes import OUTCOMES, REASONS

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
GENERATED: Final = frozenset(f"reference/{name}" for name in REFERENCE)
ALL_PAGES: Final = sorted([*PAGES, *(ROOT / "deploy").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])

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


_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)
_ANCHOR: Final = re.compile(r'<a (?:id|name)="([^"]+)">')
_PAGE_IN_CODE: Final = re.compile(r"\b((?:docs|deploy)/[\w./-]+\.md)(?:#([\w-]+))?")
_FOREIGN: Final = re.compile(r"[a-z][a-z0-9+.-]*:")
_BEFORE_QLB: Final = re.compile(r"^(?:\$ |sudo |[A-Z_]+=\S+ |(?:\S*/)?(?=qlb ))+")
"""What may precede a command in an example: a prompt, a variable, a folder."""


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


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings in GitHub's form, and explicit ones."""
    text = _FENCE.sub("", page.read_text())
    seen: Counter[str] = Counter()
    found = set(_ANCHOR.findall(text))
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def _broken(page: Path) -> Iterator[str]:
    """Yield each link of a page that leads to no file, no folder or no anchor of the repository.

    index.md is for the site and may lead to its generated pages. `make docs` checks these links.
    """
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        link = match[1] or match[2]
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if _FOREIGN.match(link) or (page == DOCS / "index.md" and name in GENERATED):
            continue
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in _anchors(target))):
            yield link


def test_no_link_is_broken() -> None:
    """Each link between the pages leads to a file, and to a heading if it names one."""
    assert {str(page.relative_to(ROOT)): lost for page in ALL_PAGES if (lost := list(_broken(page)))} == {}


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# A `b`: c\n[x](#a-b-c) [x](p.md#a) [x](p.md) ![x](p.md) [x](https://a.example/q)", []),
        ("# A\n# A\n[x](#a-1) [x](#a-2)", ["#a-2"]),
        ("[x](q.md) [x](p.md#b)\n[y]: r.md", ["q.md", "p.md#b", "r.md"]),
        ('<a id="here"></a> [x](#here)', []),
        ("```\n# B\n[x](q.md)\n```\n[x](#b)", ["#b"]),
    ],
)
def test_the_finder_of_broken_links(text: str, broken: list[str], tmp_path: Path) -> None:
    """The check finds missing files and headings, and ignores code."""
    (tmp_path / "p.md").write_text("## a\n")
    page = tmp_path / "page.md"
    page.write_text(text)
    assert list(_broken(page)) == broken


def test_every_page_that_the_program_names_exists() -> None:
    """Help texts, messages, alerts and samples name only pages and headings that exist."""
    folders = ("qlb", "deploy", "configs", "examples")
    files = [
        path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".yml", ".yaml", "")
    ]
    lost = []
    for path in files:
        for page, anchor in _PAGE_IN_CODE.findall(path.read_text()) if path.is_file() else ():
            if not (ROOT / page).exists() or (anchor and anchor not in _anchors(ROOT / page)):
                lost.append(f"{path.relative_to(ROOT)}: {page}#{anchor}")
    assert lost == []


def _examples(page: Path) -> Iterator[str]:
    """Yield the commands of qlb that a page names: in code spans, and in lines of code blocks."""
    text = page.read_text()
    blocks = _FENCE.findall(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()[1:]]
    spans = _CODE.findall(_FENCE.sub("", text))
    for one in (*lines, *spans):
        for part in re.split(r"&&|\|\||[;|]\s|\s[<>]", re.sub(r"\s#\s.*", "", " ".join(one.split()))):
            command = _BEFORE_QLB.sub("", part.strip())
            if command.startswith("qlb "):
                yield command


def _mistake(example: str) -> str:
    """Return what is wrong with a command line: an unknown command or option. Empty if nothing is."""
    try:
        words = shlex.split(example)[1:]
    except ValueError:
        words = example.split()[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0].split("|")[0])
        if found is None:
            return "" if command.name == "demo" or words[0].isupper() else f"{example}: no command {words[0]!r}"
        command, words = found, words[1:]
    known = {word for option in command.params for word in option.opts} | {"--help", "-h", "--version"}
    lost = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"{example}: no option {lost[0]}" if lost else ""


def test_every_command_in_the_pages_exists() -> None:
    """The pages name no command and no option that qlb lacks."""
    pages = [page for page in ALL_PAGES if page.name != "CHANGELOG.md"]
    examples = [(page.name, example) for page in pages for example in _examples(page)]
    assert len(examples) > 100
    assert [(name, mistake) for name, example in examples if (mistake := _mistake(example))] == []


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("`qlb drain NAME --wait` `qlb rotate status|next CONFIG` `qlb demo quick.yaml` `qlb COMMAND`", 0),
        ("`qlb drian NAME`", 1),
        ("`qlb drain NAME --wiat`", 1),
        ("```sh\n$ QLB_SOCKET=x .venv/bin/qlb status --jsn | jq  # qlb nothing\nqlb lost && qlb check a\n```", 2),
        ("```sh\nqlb cid decode \\\n  --confg x 00\n```", 1),
        ("```text\nqlb: qlb nothing\n```", 0),
    ],
)
def test_the_finder_of_mistakes_in_commands(text: str, mistakes: int, tmp_path: Path) -> None:
    """The check finds commands in code, behind prompts and variables, and their mistakes."""
    page = tmp_path / "page.md"
    page.write_text(text)
    assert len([one for one in _examples(page) if _mistake(one)]) == mistakes


def test_every_command_is_in_a_page() -> None:
    """Each command of `qlb --help` is in a page that a person has written, not only in the generated reference."""
    named = {example.split()[1] for page in PAGES if page.name != "CHANGELOG.md" for example in _examples(page)}
    assert set(cli.list_commands(click.Context(cli))) - named == set()


def test_every_metric_is_in_a_page() -> None:
    """Each metric of qlb is in a page that a person has written, not only in the generated reference."""
    named = {name for page in PAGES if page.name != "CHANGELOG.md" for name in _METRIC.findall(page.read_text())}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() if name.startswith("qlb_")}
    assert ours - named == set()
