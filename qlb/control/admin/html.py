"""The page at ``/``: the status, every second, for people.

One self-contained document, put together from the files in page/. It takes text from ``/status`` and sets it as text,
never as markup, and its policy lets it load nothing and run nothing but what stands there.
"""

import base64
import hashlib
from importlib import resources
from typing import Final

_FILES: Final = resources.files("qlb.control.admin") / "page"
_STYLE: Final = (_FILES / "page.css").read_text("utf-8")
_SCRIPT: Final = (_FILES / "page.js").read_text("utf-8")

PAGE: Final = (_FILES / "page.html").read_text("utf-8").replace("/*STYLE*/", _STYLE).replace("/*SCRIPT*/", _SCRIPT)
"""The document."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Its Content-Security-Policy: this script and this style, and requests to where it came from."""
