"""A headless Chromium that is driven over WebDriver."""

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

from lab.nat import Address
from qlb.demo.http3 import Certificate

PHONE: Final = (360, 800)
DESKTOP: Final = (1200, 900)
_POLL_S: Final = 0.05
_TIMEOUT_S: Final = 90.0
_ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",  # Chromium's sandbox does not work for root
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One browser window. Each call runs in a thread, so that the servers of the same test continue."""

    def __init__(self, driver: Chrome) -> None:
        """Use browser() instead."""
        self._driver = driver

    def quit(self) -> None:
        """End the browser."""
        self._driver.quit()

    async def open(self, url: str) -> None:
        """Open a page. Return when it is loaded."""
        await asyncio.to_thread(self._driver.get, url)

    async def click(self, selector: str) -> None:
        """Click on an element as a person does, which permits the page to make a sound."""
        await asyncio.to_thread(lambda: self._driver.find_element("css selector", selector).click())

    async def press(self, keys: str) -> None:
        """Press keys on the element that has the focus: characters, line feed for Enter, or a tabulator."""
        pressed = keys.replace("\n", Keys.ENTER).replace("\t", Keys.TAB)
        await asyncio.to_thread(lambda: ActionChains(self._driver).send_keys(pressed).perform())

    async def evaluate(self, expression: str, *arguments: Any) -> Any:
        """Return the value of a JavaScript expression in the page. Its arguments are in ``arguments``."""
        return await asyncio.to_thread(self._driver.execute_script, f"return {expression}", *arguments)

    async def text(self, selector: str) -> str:
        """Return the visible text of all elements of a selector, one on each line."""
        script = "[...document.querySelectorAll(arguments[0])].map(node => node.innerText).join('\\n')"
        found: str = await self.evaluate(script, selector)
        return found

    async def until_shown(self, selector: str, condition: Callable[[str], bool]) -> str:
        """Wait until the text of a selector matches, and return it."""
        shown = ""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while not condition(shown := await self.text(selector)):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise AssertionError(f"{selector} shows {shown!r}") from None
        return shown

    async def console(self) -> list[dict[str, Any]]:
        """Return the console messages of the page and the browser since the last call."""
        found: list[dict[str, Any]] = await asyncio.to_thread(self._driver.get_log, "browser")
        return found

    async def emulate(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Emulate a screen of a size, width by height in CSS pixels, with a dark or a light colour scheme."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await asyncio.to_thread(self._driver.execute_cdp_cmd, "Emulation.setDeviceMetricsOverride", screen)
        wanted = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        await asyncio.to_thread(self._driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", wanted)

    async def screenshot(self, path: Path) -> None:
        """Write the window's content as a PNG."""
        assert await asyncio.to_thread(self._driver.save_screenshot, str(path)), path


def trusting(certificate: Certificate, address: Address) -> tuple[str, str]:
    """Return the options that make it use HTTP/3 with an address at once, and trust this certificate there."""
    public_key = certificate.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(public_key).digest()).decode()
    return f"--ignore-certificate-errors-spki-list={digest}", "--origin-to-force-quic-on={}:{}".format(*address)


@asynccontextmanager
async def browser(folder: Path, *more: str) -> AsyncIterator[Browser]:
    """Run Chromium with its profile in a folder. more: further options. Skips the test if it is not installed."""
    window = await asyncio.to_thread(start, folder, *more)
    try:
        yield window
    finally:
        await asyncio.to_thread(window.quit)


def start(folder: Path, *more: str) -> Browser:
    """Start Chromium as browser() does, for several tests, which must quit it."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        pytest.skip("chromium or chromedriver is not installed (packages chromium, chromium-driver)")
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in (*_ARGUMENTS, f"--user-data-dir={folder}", *more):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Browser(Chrome(options, Service(programs[1])))
