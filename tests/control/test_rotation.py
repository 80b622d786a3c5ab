"""The phase of a rotation, from the states of its configurations and their silence."""

import pytest

from qlb.control.rotation import Seen, read_rotation

QUIET_S = 60.0


@pytest.mark.parametrize(
    ("configs", "phase", "old", "new"),
    [
        ([], "idle", None, None),
        ([Seen(1, "active", 0.0)], "idle", None, None),
        ([Seen(1, "active", 0.0), Seen(2, "staged", 900.0)], "staged", 1, 2),
        ([Seen(2, "staged", 900.0)], "staged", None, 2),
        ([Seen(1, "retiring", 59.0), Seen(2, "active", 0.0)], "retiring", 1, 2),
        ([Seen(1, "retiring", 60.0), Seen(2, "active", 0.0)], "done", 1, 2),
        ([Seen(1, "retiring", 99.0), Seen(3, "retiring", 5.0), Seen(2, "active", 0.0)], "retiring", 3, 2),
        ([Seen(1, "retiring", 0.0), Seen(2, "active", 0.0), Seen(3, "staged", 0.0)], "staged", 2, 3),
    ],
)
def test_phases(configs: list[Seen], phase: str, old: int | None, new: int | None) -> None:
    """What is staged comes first; of several that retire, the one that was heard last."""
    found = read_rotation(configs, QUIET_S)
    assert (found.phase, found.from_config_id, found.to_config_id) == (phase, old, new)
    assert bool(found.next_step) is (phase != "idle")
