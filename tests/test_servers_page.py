"""The facts in docs/servers.md that a program can check: forms, outputs, the test of the vectors, and links."""

import json
import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from qlb.config import load_text
from qlb.config.server_stacks import STACKS, stack_config
from qlb.routing.outcomes import REASONS

ROOT: Final = Path(__file__).parents[1]
KEY: Final = "8f95f09245765f80256934e50c66207f"
TEXT: Final = (ROOT / "docs" / "servers.md").read_text()


def section(heading: str) -> str:
    """Return the text below a heading, up to the next heading of its level or a higher one."""
    level = len(heading.split()[0])
    _, found, rest = TEXT.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{2,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def form(heading: str, server_id: str, stack: str) -> str:
    """Return the form of a stack for the CID config in a section's first YAML block."""
    (cid_config,) = yaml.safe_load(blocks(section(heading), "yaml")[0])["cid_configs"]
    if cid_config.pop("key_file", None) is not None:
        cid_config["key"] = KEY
    backend = {"name": "agent-a", "address": "127.0.0.1:5001", "server_ids": {cid_config["config_id"]: server_id}}
    config = {"listen": ["127.0.0.1:4433"], "cid_configs": [cid_config], "backends": [backend]}
    return stack_config(load_text(yaml.safe_dump(config), ROOT / "qlb.yaml").config, "agent-a", stack)


def test_every_form_is_described() -> None:
    """The table of forms has the stacks that `qlb server-config --for` knows."""
    table = re.findall(r"^\| `([a-z][a-z-]+)` \|", section("## The five values"), flags=re.MULTILINE)
    assert sorted(table) == sorted(STACKS)


@pytest.mark.parametrize(
    ("heading", "server_id", "stack"),
    [
        ("### moq-relay and moq-rs", "c0ffee01", "moq-relay"),
        ("## AWS Network Load Balancer", "1122334455667788", "nlb"),
    ],
)
def test_printed_forms(heading: str, server_id: str, stack: str) -> None:
    """The page shows what the command prints for the configuration above it."""
    (shown,) = blocks(section(heading), "text")
    printed = form(heading, server_id, stack)
    assert [line for line in printed.splitlines() if line in shown.splitlines()] == shown.splitlines()


def test_the_option_of_picoquic() -> None:
    """The page shows the option that the command prints, without the key."""
    assert form("### picoquic", "c0ffee01", "picoquic").replace(KEY, "KEY").strip() in section("### picoquic")


def test_the_example_with_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's test of the vectors passes, from the root of the repository."""
    monkeypatch.chdir(ROOT)
    (example,) = blocks(section("## Test vectors for other languages"), "python")
    assert "assert" in example
    exec(example, {})


def test_the_sections_of_the_vectors() -> None:
    """The page describes each section of the file, and the file has each section that the page describes."""
    described = re.findall(r"^\| `(\w+)` \|", section("## Test vectors for other languages"), flags=re.MULTILINE)
    file = json.loads((ROOT / "docs" / "vectors" / "connection-ids.json").read_text())
    assert described == [name for name, value in file.items() if not isinstance(value, str)]
    assert {row["reason"] for row in file["balancer"]["lookups"]} - {None} <= set(REASONS)


def test_links_within_the_page() -> None:
    """Each link to a section of this page has its heading."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) - slugs == set()
