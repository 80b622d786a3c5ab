"""The page: nothing from outside, and only text into the document."""

import base64
import hashlib
import re

from qlb.admin.pages import PAGE, PAGE_POLICY
from tests.admin.conftest import Stage


async def test_the_page_and_its_policy(stage: Stage) -> None:
    """It is served as a page that may run its own script and ask where it came from."""
    answer = await stage.ask("GET", "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    assert answer.text == PAGE


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    """The hashes are of what stands between the tags, as a browser takes them."""
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in PAGE_POLICY.split("; ")
    assert PAGE_POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in PAGE_POLICY


def test_nothing_comes_from_elsewhere() -> None:
    """No address but our own paths, no inline handlers or styles, which the policy would stop anyway."""
    assert "//" not in re.sub(r"^\s*//.*$", "", PAGE, flags=re.MULTILINE)
    assert not re.search(r"\s(on\w+|style|src)=", PAGE)


def test_text_is_set_as_text() -> None:
    """A backend's detail can hold whatever a server sent."""
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "setHTML"):
        assert way not in PAGE
    assert "textContent" in PAGE


def test_readable_on_a_phone_and_in_the_dark() -> None:
    """The page says that it fits both."""
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in PAGE
    assert "color-scheme: light dark" in PAGE
