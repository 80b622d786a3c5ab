"""deploy/prometheus/: promtool checks the files and runs the alerts' own tests; names are compared with /metrics."""

from typing import Any

import pytest
import yaml

from lab.deploy.metric_names import RULES, asked_for, known, recorded, rules
from lab.deploy.tools import DEPLOY, REPOSITORY, run, tool

FOLDER = DEPLOY / "prometheus"
SEVERITIES = {"critical", "warning", "info"}


def _alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def _promtool() -> str:
    return tool("promtool", "prometheus")


def test_the_configuration_is_sound() -> None:
    """With the rules that it names, without a warning."""
    assert "SUCCESS" in run(_promtool(), "check", "config", "--lint-fatal", FOLDER / "prometheus.yml")


@pytest.mark.parametrize("name", RULES)
def test_rules_are_sound(name: str) -> None:
    """Each expression parses, and no rule is there twice."""
    run(_promtool(), "check", "rules", "--lint-fatal", FOLDER / name)


@pytest.mark.toolchain
def test_every_alert_does_what_it_says() -> None:
    """Promtool feeds each alert with series: it is silent before, and fires with the right labels after."""
    assert "SUCCESS" in run(_promtool(), "test", "rules", FOLDER / "qlb.alerts.test.yml")


def test_every_alert_is_tested_both_ways() -> None:
    """No alert is without a case in which it fires and one in which it does not."""
    fires, silent = set(), set()
    for case in yaml.safe_load((FOLDER / "qlb.alerts.test.yml").read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == set(_alerts())


def test_rules_name_metrics_that_exist() -> None:
    """Each is on qlb's own page or made by a recording rule."""
    asked = asked_for(rule["expr"] for rule in rules())
    assert len(asked) > 20, "the names were found"
    assert asked <= known()


def test_every_recording_is_asked_for() -> None:
    """A rate that no alert needs costs memory for nothing."""
    assert recorded() - asked_for(rule["expr"] for rule in rules()) <= {
        "instance:qlb_packets_forwarded_by_cid:ratio_rate5m"
    }


@pytest.mark.parametrize("name", sorted(_alerts()))
def test_an_alert_says_what_to_do(name: str) -> None:
    """It has a severity that is known, a sentence, and a runbook that is there."""
    alert = _alerts()[name]
    assert alert["labels"]["severity"] in SEVERITIES
    assert "$labels" in alert["annotations"]["summary"]
    assert (REPOSITORY / alert["annotations"]["runbook"]).is_file()
