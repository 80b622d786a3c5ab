"""Refused sends in the log: one line for each backend and cause, with a hint."""

import logging
import sys
from collections.abc import Callable, Sequence

import pytest

from qlb.addresses import Endpoint
from qlb.daemon.meter import HINTS, REPEAT_S, SendErrorWatch
from qlb.daemon.rows import BackendRows, Row
from qlb.routing.backends import Backend
from qlb.routing.counters import SEND_ERROR_KINDS, SIZE_BYTES, Counters

BACKENDS = (Backend("a", Endpoint("127.0.0.1", 5001)), None, Backend("c", Endpoint("::1", 5003)))


def rows_of(workers: Sequence[Counters]) -> Callable[[], Sequence[Row]]:
    """Return a function that reads the rows of all backends."""
    return lambda: BackendRows().read(workers, ("a", "b", "c")).by_index


def fields(record: logging.LogRecord, *names: str) -> tuple[object, ...]:
    """Return fields of a log record."""
    return tuple(getattr(record, name, None) for name in names)


def test_every_cause_but_a_refusal_has_a_hint() -> None:
    """Every cause has a hint except "refused", because the probes report a backend that refuses packets."""
    assert set(SEND_ERROR_KINDS) - set(HINTS) == {"refused"}


def test_a_cause_is_logged_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """The line contains backend, cause, number and hint. The same cause is logged again only after REPEAT_S."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    now_s = [1000.0]
    watch = SendErrorWatch(now=lambda: now_s[0])
    watch.look(workers, rows_of(workers), BACKENDS)
    assert not caplog.records
    for worker in workers:
        worker.count_send_error(SEND_ERROR_KINDS.index("not_permitted"), index=2)
        worker.count_send_error(SEND_ERROR_KINDS.index("refused"), index=0)
    watch.look(workers, rows_of(workers), BACKENDS)
    (record,) = caplog.records
    assert record.getMessage() == "sends to a backend fail"
    assert fields(record, "backend", "error", "refused") == ("c", "not_permitted", 2)
    assert "firewall" in record.hint  # type: ignore[attr-defined]
    for _ in range(3):
        workers[0].count_send_error(SEND_ERROR_KINDS.index("not_permitted"), index=2)
        watch.look(workers, rows_of(workers), BACKENDS)
    assert len(caplog.records) == 1
    now_s[0] += REPEAT_S
    watch.look(workers, rows_of(workers), BACKENDS)
    assert len(caplog.records) == 1, "an event was logged although no new send was refused"
    workers[0].count_send_error(SEND_ERROR_KINDS.index("not_permitted"), index=2)
    watch.look(workers, rows_of(workers), BACKENDS)
    assert len(caplog.records) == 2


def test_too_large_datagrams_name_their_size_and_the_mtu(caplog: pytest.LogCaptureFixture) -> None:
    """The line contains the datagram's size and the path MTU, because an operator needs both to find the link."""
    worker = Counters(bytearray(SIZE_BYTES))
    worker.count_send_error(SEND_ERROR_KINDS.index("too_large"), index=0, size_bytes=1452)
    SendErrorWatch().look([worker], rows_of([worker]), BACKENDS)
    (record,) = caplog.records
    assert fields(record, "backend", "datagram_bytes") == ("a", 1452)
    assert sys.platform != "linux" or record.path_mtu > 1452  # type: ignore[attr-defined]


def test_refused_sends_to_clients_have_their_own_line(caplog: pytest.LogCaptureFixture) -> None:
    """Refused sends to clients get their own line, because they are not a backend's fault."""
    worker = Counters(bytearray(SIZE_BYTES))
    worker.count_send_error(SEND_ERROR_KINDS.index("unreachable"))
    SendErrorWatch().look([worker], rows_of([worker]), BACKENDS)
    (record,) = caplog.records
    assert record.getMessage() == "sends to clients fail"
    assert fields(record, "backend", "error") == (None, "unreachable")
