"""Tests of deploy/prometheus/: promtool checks files and alerts, and metric names are compared with /metrics."""

import functools
from typing import Any

import pytest
import yaml

from lab.deploy.metric_names import RULES, asked_for, known, recorded, rules
from lab.deploy.tools import DEPLOY, REPOSITORY, run, tool

FOLDER = DEPLOY / "prometheus"
SEVERITIES = {"critical", "warning", "info"}
PAGES = "https://github.com/qlb-project/qlb/blob/main/docs/"


@functools.cache
def _alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def _promtool() -> str:
    return tool("promtool", "prometheus")


def test_the_configuration_is_valid() -> None:
    """The configuration and its rule files pass promtool without a warning."""
    assert "SUCCESS" in run(_promtool(), "check", "config", "--lint-fatal", FOLDER / "prometheus.yml")


@pytest.mark.parametrize("name", RULES)
def test_rules_are_valid(name: str) -> None:
    """Each expression parses, and no rule occurs twice."""
    run(_promtool(), "check", "rules", "--lint-fatal", FOLDER / name)


@pytest.mark.toolchain
def test_every_alert_fires_as_described() -> None:
    """With promtool's test series, each alert fires with the right labels once its condition is met, and not before."""
    assert "SUCCESS" in run(_promtool(), "test", "rules", FOLDER / "qlb.alerts.test.yml")


def test_every_alert_is_tested_both_ways() -> None:
    """Each alert has a case in which it fires and one in which it does not."""
    fires, silent = set(), set()
    for case in yaml.safe_load((FOLDER / "qlb.alerts.test.yml").read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == set(_alerts())


def test_rules_name_metrics_that_exist() -> None:
    """Each metric in a rule is exposed by qlb or defined by a recording rule."""
    asked = asked_for(rule["expr"] for rule in rules())
    assert len(asked) > 20, "the names were found"
    assert asked <= known()


def test_every_recording_is_used() -> None:
    """Every recording rule is used by a rule, except one, because an unused one only costs memory."""
    assert recorded() - asked_for(rule["expr"] for rule in rules()) <= {
        "instance:qlb_packets_forwarded_by_cid:ratio_rate5m"
    }


@pytest.mark.parametrize("name", sorted(_alerts()))
def test_an_alert_names_its_runbook(name: str) -> None:
    """Each alert has a known severity, a summary, and the link to an existing runbook."""
    alert = _alerts()[name]
    assert alert["labels"]["severity"] in SEVERITIES
    assert "$labels" in alert["annotations"]["summary"]
    link = alert["annotations"]["runbook_url"]
    assert link.startswith(PAGES)
    assert (REPOSITORY / "docs" / link.removeprefix(PAGES)).is_file()
