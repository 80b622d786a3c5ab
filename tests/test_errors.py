"""The exceptions: their hierarchy, by which callers can catch them."""

import pytest

from qlb.errors import BackendError, CidError, ConfigError, NonceExhausted, PlaneUnavailable, QlbError


@pytest.mark.parametrize("error", [ConfigError, CidError, NonceExhausted, PlaneUnavailable, BackendError])
def test_everything_is_a_qlb_error(error: type[QlbError]) -> None:
    """QlbError is the base class of every exception of qlb."""
    assert issubclass(error, QlbError)


def test_wrong_values_are_value_errors() -> None:
    """ConfigError and CidError are also ValueError; the others are not."""
    values = [e for e in (ConfigError, CidError, PlaneUnavailable, BackendError) if issubclass(e, ValueError)]
    assert values == [ConfigError, CidError]
    assert issubclass(NonceExhausted, CidError)


def test_config_error_keeps_every_problem() -> None:
    """ConfigError contains all problems in order, and prints one per line."""
    problems = ("qlb.yaml:3:5: unknown key", "qlb.yaml:9:1: duplicate key")
    error = ConfigError(*problems)
    assert error.problems == problems
    assert str(error) == "qlb.yaml:3:5: unknown key\nqlb.yaml:9:1: duplicate key"
