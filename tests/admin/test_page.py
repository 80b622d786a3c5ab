"""The status page in a real browser, behind a real admin server with a made-up reading."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from lab.browser import DESKTOP, PHONE, Browser, start
from qlb.admin import pages
from qlb.observe.figures import BackendReading
from tests.admin.conftest import Stage

pytestmark = pytest.mark.e2e

LIMIT_S: Final = 120.0
ROWS: Final = "[...document.querySelectorAll('#backends tbody .name > span')].map(node => node.textContent)"
WIDTHS: Final = "[document.documentElement.scrollWidth, innerWidth]"
LOADED: Final = "performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)"
WORDS: Final = "no answer within 1 s; 3 times in a row"

CONTRAST: Final = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(part => part / 255);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, place) => part * a + below[place] * (1 - a));
  const behind = node => {
    const found = rgba(getComputedStyle(node).backgroundColor);
    if (found[3] === 1) return found.slice(0, 3);
    return over(found, node.parentElement ? behind(node.parentElement) : [1, 1, 1]);
  };
  const light = rgb => rgb.map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [.2126, .7152, .0722][place], 0);
  const found = [];
  for (const node of document.body.querySelectorAll('*')) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest('svg, script, noscript')) continue;
    const below = behind(node), [a, b] = [light(over(rgba(getComputedStyle(node).color), below)), light(below)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${node.tagName} ${node.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""
"""The visible texts whose contrast is below the 4.5 that WCAG demands."""

NAMELESS: Final = """[...document.querySelectorAll("button, input, select, summary, a[href], [role=img]")]
  .filter(node => node.checkVisibility())
  .filter(node => !(node.textContent.trim() || node.getAttribute('aria-label') || node.labels?.length))
  .map(node => node.outerHTML)
"""


class Pool:
    """The made-up daemon's backends, which a test changes."""

    def __init__(self, stage: Stage) -> None:
        """Start with a calm reading without notices."""
        self._stage = stage
        reading = stage.daemon.reading
        self.row = dataclasses.replace(reading.backends[0], finding="", excluded="", fallback_share=0.0)
        stage.daemon.set(
            last_reload_ok=True,
            all_failing=False,
            probe_error="",
            discovery=(),
            rotation=dataclasses.replace(reading.rotation, phase="idle"),
            workers=reading.workers[:1],
            listeners=reading.listeners[1:],
            balancers=(),
        )
        stage.daemon.ticks = True

    def set(self, **fields: object) -> None:
        """Change fields of the reading."""
        self._stage.daemon.set(**fields)

    def fill(self, count: int, *, down: Iterable[int] = (), **fields: Any) -> None:
        """Set so many backends: agent-0 is the busiest. down: the numbers of those that are down."""
        dead = frozenset(down)
        self.set(backends=tuple(self.make(n, healthy=n not in dead, count=count, **fields) for n in range(count)))

    def make(self, number: int, *, healthy: bool = True, count: int = 1, **fields: Any) -> BackendReading:
        """Return one backend."""
        usual: dict[str, Any] = {
            "name": f"agent-{number}",
            "address": f"10.0.{number // 250}.{number % 250}:443",
            "healthy": healthy,
            "detail": "it answers" if healthy else WORDS,
            "packets_per_second": float(count - number),
            "fallback_share": 1 / count,
        }
        return dataclasses.replace(self.row, **{**usual, **fields})


@pytest.fixture
def pool(stage: Stage) -> Pool:
    """Return the pool of the made-up daemon, before the browser opens the page."""
    return Pool(stage)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a browser for all tests of this file, because its start takes seconds."""
    found = start(tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


@asynccontextmanager
async def opened(window: Browser, stage: Stage, size: tuple[int, int] = DESKTOP) -> AsyncIterator[Browser]:
    """Open the page. At the end of the block the console must be empty, and only /status requested."""
    async with asyncio.timeout(LIMIT_S):
        await window.emulate(size)
        await window.open(f"http://127.0.0.1:{stage.address.port}/")
        await window.until_shown("#state", lambda shown: shown == "ready")
        yield window
        assert await window.console() == []
        assert set(await window.evaluate(LOADED)) == {"/status"}
        wide, inner = await window.evaluate(WIDTHS)
        assert wide <= inner
        await window.open("about:blank")


async def next_answer(page: Browser) -> None:
    """Wait until the page has shown another answer of /status."""
    now = await page.evaluate("before.uptime_s")
    while await page.evaluate("before.uptime_s") == now:
        await asyncio.sleep(0.05)


async def test_sorting(stage: Stage, pool: Pool, window: Browser) -> None:
    """A title sorts, sorts the other way, and returns to problems first. Its focus survives an update of the page."""
    pool.fill(12, down=[7])
    async with opened(window, stage) as page:
        usual = ["agent-7", *(f"agent-{n}" for n in range(12) if n != 7)]
        assert await page.evaluate(ROWS) == usual
        sort = "document.querySelector('#backends th.rate')"
        await page.click("#backends th.rate button")
        assert await page.evaluate(ROWS) == [f"agent-{n}" for n in range(12)]
        assert await page.evaluate(f"{sort}.getAttribute('aria-sort')") == "descending"
        await next_answer(page)
        assert await page.evaluate(f"document.activeElement === {sort}.firstChild")
        await page.press("\n")
        assert await page.evaluate(ROWS) == [f"agent-{n}" for n in reversed(range(12))]
        assert await page.evaluate(f"{sort}.getAttribute('aria-sort')") == "ascending"
        await page.press("\n")
        assert await page.evaluate(ROWS) == usual
        assert await page.evaluate(f"{sort}.hasAttribute('aria-sort')") is False
        await page.click("#backends th.name button")
        assert await page.evaluate(ROWS) == [f"agent-{n}" for n in range(12)]


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("count", [100, 1000])
async def test_many_backends(stage: Stage, pool: Pool, window: Browser, count: int, size: tuple[int, int]) -> None:
    """Twenty backends are shown, those with problems first, and more on request. The search finds the others."""
    pool.fill(count, down=[90])
    async with opened(window, stage, size) as page:
        rows = await page.evaluate(ROWS)
        assert len(rows) == 20
        assert rows[0] == "agent-90"
        assert await page.text("#filtered") == f"20 of {count:,} shown, those with problems first"
        assert await page.evaluate("at('more').getBoundingClientRect().bottom + scrollY") < 4000
        await page.click("#more")
        assert len(await page.evaluate(ROWS)) == min(count, 120)
        await page.click("#filter")
        await page.press(f"AGENT-{count - 1}")
        assert await page.evaluate(ROWS) == [f"agent-{count - 1}"]
        assert await page.text("#filtered") == f"1 of {count:,} shown"
        assert await page.evaluate("at('more').hidden") is True
        await page.evaluate("at('filter').select()")
        await page.press("no answer")
        assert await page.evaluate(ROWS) == ["agent-90"]
        order = "(at('order').value = arguments[0], at('order').dispatchEvent(new Event('change')))"
        await page.evaluate("(at('filter').value = '', at('filter').dispatchEvent(new Event('input')))")
        await page.evaluate(order, "packets/s")
        assert (await page.evaluate(ROWS))[:2] == ["agent-0", "agent-1"]
        await page.evaluate(order, "")
        assert (await page.evaluate(ROWS))[0] == "agent-90"
        assert await page.evaluate("at('order').checkVisibility()") is (size == PHONE)


async def test_titles_stay_in_sight(stage: Stage, pool: Pool, window: Browser) -> None:
    """The titles of the columns stay at the top while the table is scrolled."""
    pool.fill(100)
    async with opened(window, stage) as page:
        await page.evaluate("scrollTo(0, at('backends').getBoundingClientRect().top + 300)")
        top = "Math.round(document.querySelector('#backends th').getBoundingClientRect().top)"
        assert await page.evaluate(top) == 0
        assert await page.evaluate("document.elementFromPoint(60, 10).closest('th') !== null")


async def test_few_backends_need_no_controls(stage: Stage, pool: Pool, window: Browser) -> None:
    """A pool of ten has neither a search field nor a button for more."""
    pool.fill(10)
    async with opened(window, stage) as page:
        assert await page.evaluate("[at('controls'), at('more')].map(node => node.checkVisibility())") == [False, False]


async def test_words_only_where_something_is_wrong(stage: Stage, pool: Pool, window: Browser) -> None:
    """The words of a probe are shown for a backend that is down or has a finding; for others they are a tooltip."""
    pool.fill(3, down=[1])
    wrong = pool.make(3, count=4, finding="wrong key")
    pool.set(backends=(*stage.daemon.reading.backends, wrong))
    async with opened(window, stage) as page:
        assert (await page.text("#backends tbody .words")).splitlines() == [
            "up",
            "wrong key",
            "down",
            WORDS,
            "up",
            "up",
        ]
        titles = await page.evaluate("[...document.querySelectorAll('#backends tbody tr')].map(row => row.title)")
        assert titles == ["", "", "it answers", "it answers"]


async def test_shares_need_a_sample(stage: Stage, pool: Pool, window: Browser) -> None:
    """Below twenty new connections there is no share of them. From twenty on there is one, with their number."""
    pool.fill(2)
    shown = """(() => {
      show({...before, backends: before.backends.map(row => ({...row, ...arguments[0]}))});
      const texts = [...document.querySelectorAll('#sample, #backends .shares small')].map(node => node.textContent);
      return [...texts, document.querySelectorAll('.found').length];
    })()"""
    async with opened(window, stage) as page:
        for row in ({"new_flows": 9}, {"new_flows": None, "forwarded_by_route": {"cid": 7, "flow": 5, "fallback": 9}}):
            few = ["50 % wanted, 9 so far"] * 2
            expected = ["18 new connections: too few for shares", *few, 0]
            assert await page.evaluate(shown, row) == expected
        enough = ["50 % wanted, 50 % so far"] * 2
        assert await page.evaluate(shown, {"new_flows": 10}) == ["shares of 20 new connections", *enough, 2]


async def test_lines_have_a_scale(stage: Stage, pool: Pool, window: Browser) -> None:
    """A busy backend has a line below the greatest rate of the last two minutes. An idle one has only the zero line."""
    pool.fill(2)
    busy, idle = stage.daemon.reading.backends
    pool.set(backends=(busy, dataclasses.replace(idle, packets_per_second=0.0)))
    async with opened(window, stage) as page:
        await next_answer(page)
        assert await page.text("#backends .spark-cell small") == "max 2.0/s\nidle"
        drawn = "[...document.querySelectorAll('.spark')].map(svg => svg.querySelectorAll(arguments[0]).length)"
        assert await page.evaluate(drawn, "polyline") == [1, 0]
        assert await page.evaluate(drawn, "line") == [1, 1]
        label = await page.evaluate("document.querySelector('.spark').getAttribute('aria-label')")
        assert label == "at most 2.0 packets per second in the last 2 minutes"
        await page.evaluate("show({...before, uptime_s: before.uptime_s + 119})")
        assert await page.evaluate("lines.get('agent-0').length") > 1
        await page.evaluate("show({...before, uptime_s: before.uptime_s + 121})")
        assert await page.evaluate("lines.get('agent-0').length") == 1


TILES: Final = """Object.fromEntries([...document.querySelectorAll("#tiles > div")]
  .map(node => [...node.children].map(child => child.innerText)))
"""


async def test_tiles_of_octets_and_new_connections(stage: Stage, pool: Pool, window: Browser) -> None:
    """A tile whose figure the daemon does not report is not there; otherwise it has the rate of the last second."""
    pool.fill(3)
    async with opened(window, stage) as page:
        await page.evaluate("(() => { const {new_flows, bytes_returned, ...rest} = before; show(rest); })()")
        assert {"out", "new connections/s"} & set(await page.evaluate(TILES)) == set()
        earlier = "{...before, new_flows: 5, bytes_returned: 1000}"
        later = "{...before, uptime_s: before.uptime_s + 2, new_flows: 65, bytes_returned: 251000}"
        shown = await page.evaluate(f"(() => {{ show({earlier}); show({later}); return {TILES}; }})()")
        assert (shown["out"], shown["new connections/s"]) == ("1.0 Mbit/s", "30")
        units = "[0, 10, 2500, 5e5, 1e9, 1e12].map(bits)"
        assert await page.evaluate(units) == [
            "0 bit/s",
            "80 bit/s",
            "20 kbit/s",
            "4.0 Mbit/s",
            "8.0 Gbit/s",
            "8,000 Gbit/s",
        ]


async def test_notices(stage: Stage, pool: Pool, window: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most severe notices come first, in their colours. More than four are folded, but no critical one is."""
    monkeypatch.setattr(pages, "PAGE", pages.document(""))
    pool.fill(9, finding="wrong key")
    pool.set(last_reload_ok=False, reload_problems=("edge.yaml:3:5: no such key",))
    async with opened(window, stage) as page:
        kinds = "[...document.querySelectorAll('#notices li')].map(node => node.className)"
        assert await page.evaluate(kinds) == ["bad"] * 6 + ["warn"]
        assert (await page.text("#notices")).splitlines()[0] == "CRITICALagent-0: wrong key"
        assert await page.text("#rest-count") == "" or await page.evaluate("at('rest').hidden")
        assert "edge.yaml:3:5: no such key" in await page.text("#notices") + await page.text("#rest")
        assert await page.evaluate("document.querySelectorAll('.notices a').length") == 0
        pool.fill(9)
        await page.until_shown("#notices", lambda shown: shown.startswith("WARNING"))
        assert await page.evaluate(kinds) == ["warn"]


async def test_links_lead_to_the_documentation(
    stage: Stage, pool: Pool, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an address of the documentation, titles and notices link to its pages, and nothing is requested there."""
    monkeypatch.setattr(pages, "PAGE", pages.document("https://docs.qlb.example/tree/main/docs/"))
    pool.fill(2, down=[0, 1])
    pool.set(balancers=("http://192.0.2.7:9464", "javascript:alert(1)"))
    async with opened(window, stage) as page:
        links = await page.evaluate("[...document.querySelectorAll('a.doc, .notices a')].map(node => node.href)")
        assert "https://docs.qlb.example/tree/main/docs/operating.md#outcomes" in links
        assert "https://docs.qlb.example/tree/main/docs/runbooks/loss-of-a-node.md" in links
        assert all(link.startswith("https://docs.qlb.example/") for link in links)
        for hostile in ("//evil.example/x.md", "https://evil.example/x.md", "../../x.md", "javascript:x.md", ""):
            assert await page.evaluate("documentation(arguments[0])", hostile) == ""
        others = await page.evaluate("[...document.querySelectorAll('#balancers a')].map(node => node.href)")
        assert others == ["http://192.0.2.7:9464/"]


async def test_outcomes_are_explained(stage: Stage, pool: Pool, window: Browser) -> None:
    """Outcomes are in groups with a sentence. The sentence of one is a tooltip, and stays open over an update."""
    pool.fill(2)
    pool.set(outcomes={"cid_config_1": 900, "fallback_no_config": 90, "drop_empty": 10}, totals=totals_of(stage, 1000))
    async with opened(window, stage) as page:
        shown = " ".join((await page.text("#outcomes tbody")).split())
        assert "by ID The connection ID decoded to a server ID, and the packet went to that backend. 900 90 %" in shown
        assert "dropped The packet was not forwarded. 10 1.0 %" in shown
        rows = "[...document.querySelectorAll('#outcomes tr.member')].map(row => row.title)"
        assert (await page.evaluate(rows))[0] == "The ID decoded under CID config 1."
        assert "The ID decoded under" not in shown
        await page.click("#outcomes .member summary")
        await page.until_shown("#outcomes", lambda text: "The ID decoded under CID config 1." in text)
        await next_answer(page)
        assert "The ID decoded under CID config 1." in await page.text("#outcomes")
        pool.set(totals=totals_of(stage, 19))
        await page.until_shown("#outcomes", lambda text: "%" not in text)


def totals_of(stage: Stage, received: int) -> dict[str, int]:
    """Return the totals of the reading with another number of received packets."""
    return {**stage.daemon.reading.totals, "received_packets": received}


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_contrast_and_names(
    stage: Stage, pool: Pool, window: Browser, size: tuple[int, int], *, dark: bool
) -> None:
    """Every text has enough contrast, and every control a name, with all colours on the page."""
    states = [
        {"state": "draining"},
        {"state": "draining", "drained": True},
        {"excluded": "it loops"},
        {"finding": "bad"},
    ]
    pool.fill(12, down=[0])
    pool.set(
        backends=(*stage.daemon.reading.backends, *(pool.make(20 + n, **state) for n, state in enumerate(states))),
        outcomes={"cid_config_1": 90, "drop_empty": 10},
        last_reload_ok=False,
    )
    async with opened(window, stage, size) as page:
        await page.emulate(size, dark=dark)
        await page.evaluate("document.querySelectorAll('details').forEach(node => node.open = true)")
        assert await page.evaluate(CONTRAST) == []
        assert await page.evaluate(NAMELESS) == []
        headings = await page.evaluate("[...document.querySelectorAll('h1, h2')].map(node => node.tagName)")
        assert headings[0] == "H1"
        assert set(headings[1:]) == {"H2"}


async def test_the_keyboard_reaches_every_control(stage: Stage, pool: Pool, window: Browser) -> None:
    """The tabulator key goes through search, titles, and the button for more, each with a visible frame."""
    pool.fill(30)
    async with opened(window, stage) as page:
        found = set()
        for _ in range(16):
            await page.press("\t")
            found.add(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none"
        assert {"filter", "backend", "packets/s", "more"} <= found


async def test_an_update_leaves_the_rest_alone(stage: Stage, pool: Pool, window: Browser) -> None:
    """A part that has not changed keeps its nodes, so that a selection and a tooltip stay."""
    pool.fill(3)
    async with opened(window, stage) as page:
        await page.evaluate("window.kept = document.querySelector('#backends .name').firstChild")
        await page.evaluate("window.figure = document.querySelector('#backends .rate')")
        await next_answer(page)
        await next_answer(page)
        assert await page.evaluate("[kept.isConnected, figure.isConnected]") == [True, True]
