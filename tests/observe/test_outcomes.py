"""The groups of outcomes and their sentences."""

from qlb.observe.outcomes import GROUPS, grouped, sentence
from qlb.routing.outcomes import OUTCOMES, ROUTES


def test_every_outcome_has_a_group_and_a_sentence() -> None:
    """Every outcome is in one group, and its sentence begins with a capital letter and ends with a full stop."""
    assert set(GROUPS) == {*ROUTES, "drop"}
    texts = [sentence(outcome) for outcome in OUTCOMES]
    assert all(text[0].isupper() and text.endswith(".") for text in texts)
    assert len(set(texts)) == len(texts)


def test_the_groups_add_up() -> None:
    """The groups have a fixed order, only outcomes with packets, and together all packets."""
    packets = {outcome.name: number for number, outcome in enumerate(OUTCOMES)}
    groups = grouped(packets)
    assert [group["name"] for group in groups] == ["by ID", "new connection", "known flow", "dropped"]
    assert sum(int(str(group["packets"])) for group in groups) == sum(packets.values())
    rows = [row for group in groups if isinstance(group["outcomes"], list) for row in group["outcomes"]]
    assert {row["name"]: row["packets"] for row in rows} == {name: n for name, n in packets.items() if n}
    assert [group["packets"] for group in grouped({})] == [0] * 4


def test_a_new_client_is_no_fault() -> None:
    """The first packet of a client is in the group of new connections, whose sentence explains it."""
    groups = grouped({"fallback_no_config": 3})
    assert [(group["name"], group["packets"]) for group in groups if group["packets"]] == [("new connection", 3)]
    assert "first packets of every client" in str(groups[1]["text"])
