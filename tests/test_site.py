"""The site and the manual pages: what is generated is fresh, complete and consistent. `make docs` builds the site."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from lab.deploy.metric_names import exposed
from lab.site import commands, keys, manual, pages, reference
from lab.site.requests import foreign_requests
from qlb.cli import cli
from qlb.config import json_schema, load_text
from qlb.config.load import NEEDS_RESTART

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = reference.pages()
MANUAL: Final = manual.pages()
KEYS: Final = {key.path: key for section in keys.sections() for key in section.keys}


def every_command(group: click.Command, name: str = "qlb") -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all commands below it, with their full names."""
    yield name, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for word in group.list_commands(context):
            command = group.get_command(context, word)
            assert command is not None, word
            yield from every_command(command, f"{name} {word}")


def every_key() -> Iterator[str]:
    """Yield the path of every key in the JSON Schema, of sections and in sections."""
    schema: dict[str, Any] = json_schema()
    for name, one in schema["properties"].items():
        yield name
        for model in re.findall(r"'#/\$defs/(\w+)'", repr(one)):
            yield from (f"{name}.{key}" for key in schema["$defs"][model]["properties"])


def test_the_reference_has_every_key() -> None:
    """Each key has an entry in the reference of the configuration and in qlb.yaml(5)."""
    text, page = REFERENCE["configuration.md"], MANUAL["qlb.yaml.5"].replace("\\", "")
    wanted = list(every_key())
    assert len(wanted) > 60
    assert [key for key in wanted if f"# {key} {{ #{key} }}" not in text and f"[{key}](#{key})" not in text] == []
    assert [key for key in wanted if f".TP\nfB{key}fR" not in page] == []


def test_the_reference_has_every_command_and_option() -> None:
    """Each command, and each of its options, is in the reference of the command line and in its own manual page."""
    text = REFERENCE["commands.md"]
    for name, command in every_command(cli):
        page = MANUAL[f"{name.replace(' ', '-')}.1"].replace("\\", "")
        part = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert part or name == "qlb", name
        for option in command.params:
            for word in option.opts if isinstance(option, click.Option) else ():
                assert f"fB{word}" in page or f", {word}" in page, f"{name} {word}"
                assert f"`{word}" in part or f", {word}" in part or name == "qlb", f"{name} {word}"


def test_the_reference_has_every_metric() -> None:
    """Each metric of /metrics is in the reference of the metrics."""
    named = set(re.findall(r"^### (\w+)$", REFERENCE["metrics.md"], re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed()} - named == set()


def test_a_key_has_all_its_facts() -> None:
    """Each key outside the secrets has values, a default, an example that qlb reads, and the effect of a change."""
    for path, key in KEYS.items():
        is_section = key.kind in ("mapping", "list of mappings")
        assert key.kind, path
        assert key.text, path
        if not is_section:
            assert key.default, path
            assert key.change, path
            assert bool(key.example) == (not path.endswith(("key", "hash_key")) or path.endswith("_file")), path


NEEDED: Final[dict[str, dict[str, Any]]] = {
    "cid_configs": {"config_id": "1", "server_id_length": "4", "nonce_length": "12"},
    "backends": {"name": "a", "address": "127.0.0.1:2"},
    "discovery": {"name": "d", "networks": ["10.0.0.0/8"], "kubernetes": "voice/agents"},
}
DNS: Final = {"dns": "agents.example", "port": "1"}
KIND_OF_SOURCE: Final = {"record": DNS, "resolvers": DNS, "max_interval": DNS, "dns": {"port": "1"}, "file": {}}
"""Key → what its source needs instead of `kubernetes`."""


@pytest.mark.parametrize("path", [path for path, key in KEYS.items() if key.example])
def test_an_example_is_valid(path: str, tmp_path: Path) -> None:
    """Each example of the reference is accepted in a configuration that has what the example needs."""
    document: dict[str, Any] = {"listen": ["127.0.0.1:1"], "backends": []}
    example = yaml.load(KEYS[path].example, yaml.BaseLoader)
    section, _, name = path.rpartition(".")
    if section == "discovery":
        needed = dict(NEEDED[section])
        if name in KIND_OF_SOURCE:
            del needed["kubernetes"]
            needed |= KIND_OF_SOURCE[name]
        document[section] = [needed | example]
    elif section in NEEDED:
        document[section] = [NEEDED[section] | example]
        document.setdefault("cid_configs", [NEEDED["cid_configs"]])
    else:
        document = document | ({section: example} if section else example)
    for file in ("keys/1.hex", "keys/hash.hex"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("00112233445566778899aabbccddeeff")
        (tmp_path / file).chmod(0o600)
    (tmp_path / "backends.yaml").write_text("backends: []")
    (tmp_path / "kubeconfig").write_text("{}")
    (tmp_path / "kubeconfig").chmod(0o600)
    load_text(yaml.safe_dump(document), tmp_path / "qlb.yaml")


def test_the_effect_of_a_change_is_described() -> None:
    """The text of a key says that a change needs a restart if and only if a reload refuses the change."""
    schema: dict[str, Any] = json_schema()
    texts = {name: one["description"] for name, one in schema["properties"].items()}
    for name, one in schema["properties"].items():
        for model in re.findall(r"'#/\$defs/(\w+)'", repr(one)):
            texts |= {f"{name}.{key}": k["description"] for key, k in schema["$defs"][model]["properties"].items()}
    assert {path for path, text in texts.items() if "A change needs a restart" in text} == {
        ".".join(steps) for steps in NEEDS_RESTART
    }


def test_the_manual_pages_are_fresh() -> None:
    """The committed manual pages equal what `make generate` writes now."""
    committed = {path.name: path.read_text() for path in manual.MAN.iterdir()}
    assert sorted(committed) == sorted(MANUAL)
    assert [name for name, text in MANUAL.items() if committed[name] != text] == [], "run `make generate`"


@pytest.mark.parametrize("name", sorted(MANUAL))
def test_a_manual_page_is_valid(name: str) -> None:
    """Groff has no warning about a page, and the page shows no command of roff."""
    if shutil.which("groff") is None:
        pytest.skip("groff is missing")
    command = ("groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-K", "utf8")
    done = subprocess.run(command, input=MANUAL[name], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    assert not re.search(r"^\s*\.[A-Z]|\\[fe&(]", done.stdout, re.MULTILINE)
    assert "NAME\n" in done.stdout


def test_the_pages_of_the_site(tmp_path: Path) -> None:
    """Every page is staged and is in the navigation, and every page of the navigation exists."""
    pages.stage(tmp_path)
    staged = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")}
    text = (ROOT / "mkdocs.yml").read_text()
    navigation = re.findall(r"^ +- (\S+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    assert sorted(navigation) == sorted(staged), "add each page to a shelf in mkdocs.yml"


def test_a_broken_link_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a page or a file that does not exist is an error that names both; code is no link."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    for name in (*pages._OTHER_PAGES, "docs/index.md", "docs/runbooks/drain.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# A page\n\nText.\n")
    index, page = tmp_path / "docs/index.md", tmp_path / "site/index.md"
    (tmp_path / "examples/server.py").write_text("")
    index.write_text(
        "[a](runbooks/) [b](../deploy/README.md#x) [c](../examples/server.py) [d](#here) [e](https://a.example/b.md)\n"
        "```\n[f](no.md)\n```\n"
    )
    pages.stage(tmp_path / "site")
    assert page.read_text() == (
        "[a](runbooks/index.md) [b](deploy.md#x) [c](files/examples/server.py) [d](#here) [e](https://a.example/b.md)\n"
        "```\n[f](no.md)\n```\n"
    )
    assert (tmp_path / "site/files/examples/server.py").exists()
    index.write_text("[a](no.md)")
    with pytest.raises(pages.BrokenLink, match=r"docs/index\.md: no\.md"):
        pages.stage(tmp_path / "site")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', ["a.html: https://cdn.example/x.js"]),
        ("a.html", "<link rel=stylesheet href=//fonts.example/a.css>", ["a.html: //fonts.example/a.css"]),
        ("a.html", '<style>@import "https://a.example/b"</style>', ["a.html: https://a.example/b"]),
        ("a.css", "a { src: url(https://a.example/b.woff) }", ["a.css: https://a.example/b.woff"]),
        ("a.html", '<a href="https://a.example/">a</a> <img src="b.png"> <script src="/c.js"></script>', []),
        ("a.js", "https://a.example/", []),
    ],
)
def test_requests_to_other_hosts(tmp_path: Path, name: str, text: str, found: list[str]) -> None:
    """The check finds each address that a browser loads by itself; a link that a reader may follow is no request."""
    (tmp_path / name).write_text(text)
    assert list(foreign_requests(tmp_path)) == found


def test_the_spelling_of_options() -> None:
    """An option has its value, its range and its default, in words that do not depend on the release of click."""
    found = {one.name: {option.spelling: option.text for option in one.options} for one in commands.commands()}
    assert found["qlb demo run"]["--rebinds N"].endswith("[0 to 100; default: 4]")
    assert "--attach auto|native|generic" in found["qlb decap"]
    assert "--effective" in found["qlb config"]


def test_the_first_page_has_the_commands_that_init_prints(tmp_path: Path) -> None:
    """The first page needs at most ten commands, and those after `qlb init` are commands that it prints."""
    text = (ROOT / "docs" / "index.md").read_text()
    wanted = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(wanted) <= 10
    folder = Path(sys.executable).parent
    if not (folder / "qlb").exists():
        pytest.skip(f"no {folder / 'qlb'}: qlb is not installed")
    begin = wanted.index("qlb init edge")
    environ = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        [folder / "qlb", *wanted[begin].split()[1:]],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    printed = [_without_ports(line.strip()) for line in done.stdout.splitlines()]
    assert [line for line in wanted[begin + 1 :] if _without_ports(line) not in printed] == []


def _without_ports(command: str) -> str:
    """Return a command without its ports, which depend on those that are free, and with one name of Python."""
    return re.sub(r"\b\d{4,5}\b", "PORT", re.sub(r"^\S*python3?\b", "python", command))
