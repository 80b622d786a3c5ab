"""Tests of deploy/grafana/qlb.json: every query parses and names existing metrics; panels do not overlap."""

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
"""Example values of the variables that Grafana replaces in queries."""


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
    """With the variables replaced, promtool parses every query."""
    queries = [_filled_in(query) for query in _queries()]
    assert len(queries) > 40
    assert [query for query in queries if "$" in query] == []
    rows = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rows}]}))
    run(tool("promtool", "prometheus"), "check", "rules", path)


def test_queries_name_metrics_that_exist() -> None:
    """Each metric in a query or variable is exposed by qlb or defined by a recording rule."""
    variables = [one["query"]["query"] for one in _dashboard()["templating"]["list"] if one["type"] == "query"]
    assert asked_for([*_queries(), *variables]) <= known()


def test_queries_filter_by_the_chosen_balancers() -> None:
    """Each selector contains both variables."""
    for query in _queries():
        selectors = re.findall(r"\{([^{}]*)\}", query)
        assert selectors, query
        assert all('job=~"$job", instance=~"$instance"' in one for one in selectors), query


def test_every_panel_asks_the_chosen_data_source() -> None:
    """Panels use the data source variable, never a fixed data source."""
    assert [one["name"] for one in _dashboard()["templating"]["list"]] == ["datasource", "job", "instance"]
    for panel in _panels():
        for one in (panel, *panel.get("targets", ())):
            if panel["type"] != "row":
                assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    """Every panel is inside the grid, has a title and a description, and overlaps no other."""
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        position = panel["gridPos"]
        assert min(position.values()) >= 0
        assert position["x"] + position["w"] <= COLUMNS, panel["title"]
        assert panel["type"] == "row" or panel["description"]
    assert [(a["title"], b["title"]) for a, b in combinations(panels, 2) if _overlap(a["gridPos"], b["gridPos"])] == []


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_the_rows_of_the_dashboard() -> None:
    """The rows go from the overview to the workers."""
    titles = [panel["title"] for panel in _panels() if panel["type"] == "row"]
    assert titles == ["Overview", "Backends", "Outcomes", "Config IDs and rotation", "Health", "Workers"]


def test_targets_of_a_panel_have_unique_ref_ids() -> None:
    """Targets have unique refIds, because Grafana confuses queries that share one."""
    for panel in _panels():
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
