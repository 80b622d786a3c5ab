"""The HTML page: it loads nothing from other places, and it inserts only text into the document."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from qlb.admin.pages import PAGE, PAGE_POLICY, document, documentation
from tests.admin.conftest import Stage

DOCS = Path(__file__).parents[2] / "docs"


async def test_the_page_and_its_policy(stage: Stage) -> None:
    """The page is served with a policy that allows its own script and requests to its own origin."""
    answer = await stage.ask("GET", "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    assert answer.text == PAGE


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    """The policy contains the hashes of the script and the style, as a browser computes them."""
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in PAGE_POLICY.split("; ")
    assert PAGE_POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in PAGE_POLICY


def test_the_page_loads_nothing_from_elsewhere() -> None:
    """The page contains only its own paths. It has no inline handlers or styles, which the policy would block."""
    assert "//" not in re.sub(r"^\s*//.*$", "", document(""), flags=re.MULTILINE)
    assert not re.search(r"\s(on\w+|style|src)=", PAGE)


def test_text_is_set_as_text() -> None:
    """The page never inserts HTML, because a backend's detail can contain any text that a server sent."""
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "setHTML"):
        assert way not in PAGE
    assert "textContent" in PAGE


def test_readable_on_a_phone_and_in_the_dark() -> None:
    """The page declares that it fits small screens and dark mode."""
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in PAGE
    assert "color-scheme: light dark" in PAGE


def test_links_to_the_documentation_come_from_the_package() -> None:
    """The address of the documentation is the one in the package's metadata. Only https counts."""
    urls = ("Homepage, https://a.example/", "Documentation, https://docs.a.example/qlb")
    assert documentation(urls) == "https://docs.a.example/qlb/"
    assert documentation(urls[:1]) == documentation(()) == ""
    assert documentation(("Documentation, javascript:alert(1)",)) == ""
    assert '<html lang="en" data-docs="https://docs.a.example/?a&quot;b/">' in document('https://docs.a.example/?a"b/')


def test_every_link_to_the_documentation_exists() -> None:
    """Each page that the document links to is in docs/, with its heading."""
    links = re.findall(r'data-doc="([^"]+)"', PAGE)
    assert len(links) > 5
    for name, _, anchor in (one.partition("#") for one in links):
        headings = re.findall(r"^#+ (.+)$", (DOCS / name).read_text(), flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, name


@pytest.mark.parametrize("part", ["filter", "order", "backends", "outcomes", "configs"])
def test_parts_have_names(part: str) -> None:
    """Each field has a label, and each table the heading above it as its name."""
    element = re.search(rf'<(\w+) id="{part}"[^>]*>', PAGE)
    assert element is not None
    if element[1] == "table":
        assert f'aria-labelledby="{part}-title"' in element[0]
        assert f'id="{part}-title"' in PAGE
    else:
        assert re.search(rf'<label[^>]*>\w+ <{element[1]} id="{part}"', PAGE)
