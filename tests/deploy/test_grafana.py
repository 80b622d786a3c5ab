"""deploy/grafana/qlb.json: every query parses and names metrics that exist; panels lie side by side."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from lab.deploy.metric_names import asked_for, known
from lab.deploy.tools import DEPLOY, run, tool

COLUMNS = 24
VARIABLES = {"$__rate_interval": "5m", "$job": "qlb", "$instance": "a:9464"}
"""What Grafana puts into queries."""


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/qlb.json").read_text())
    return found


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = _dashboard()["panels"]
    return panels


def _queries() -> Iterator[str]:
    for panel in _panels():
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (one["expr"] for one in _dashboard()["annotations"]["list"])


def _filled_in(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def test_every_query_parses(tmp_path: Path) -> None:
    """As promtool reads it, with the variables filled in; none is left over."""
    queries = [_filled_in(query) for query in _queries()]
    assert len(queries) > 40
    assert [query for query in queries if "$" in query] == []
    rows = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rows}]}))
    run(tool("promtool", "prometheus"), "check", "rules", path)


def test_queries_name_metrics_that_exist() -> None:
    """Each is on qlb's own page or made by a recording rule; variables too."""
    variables = [one["query"]["query"] for one in _dashboard()["templating"]["list"] if one["type"] == "query"]
    assert asked_for([*_queries(), *variables]) <= known()


def test_queries_keep_to_the_chosen_balancers() -> None:
    """Each selector has the two variables."""
    for query in _queries():
        selectors = re.findall(r"\{([^{}]*)\}", query)
        assert selectors, query
        assert all('job=~"$job", instance=~"$instance"' in one for one in selectors), query


def test_every_panel_asks_the_chosen_data_source() -> None:
    """Nothing refers to the data source of whoever has drawn it."""
    assert [one["name"] for one in _dashboard()["templating"]["list"]] == ["datasource", "job", "instance"]
    for panel in _panels():
        for one in (panel, *panel.get("targets", ())):
            if panel["type"] != "row":
                assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    """Every panel lies within the grid, is titled and described, and covers no other."""
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        spot = panel["gridPos"]
        assert min(spot.values()) >= 0
        assert spot["x"] + spot["w"] <= COLUMNS, panel["title"]
        assert panel["type"] == "row" or panel["description"]
    assert [(a["title"], b["title"]) for a, b in combinations(panels, 2) if _overlap(a["gridPos"], b["gridPos"])] == []


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_the_rows_are_there() -> None:
    """From the overview down to the workers."""
    titles = [panel["title"] for panel in _panels() if panel["type"] == "row"]
    assert titles == ["Overview", "Backends", "Outcomes", "Config IDs and rotation", "Health", "Workers"]


def test_targets_of_a_panel_have_letters_of_their_own() -> None:
    """Grafana mixes up queries with one refId."""
    for panel in _panels():
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
