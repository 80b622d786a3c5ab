"""The numbers of a whole daemon: their names in /status and /metrics, and their meaning."""

from typing import Final, NamedTuple

from qlb.routing.counters import (
    BYTES_RECEIVED,
    ICMP_FORWARDED,
    ICMP_SENT,
    PACKETS_RECEIVED,
    RETURN_DROPPED,
    RETURN_OVERFLOWED,
    RETURN_PAUSES,
    SESSIONS,
    SESSIONS_EVICTED,
    SESSIONS_PROTECTED,
    SESSIONS_REOPENED,
    WRONG_IDS,
)

NO_SLOT: Final = -1
"""The slot of a total that the supervisor counts itself."""


class Total(NamedTuple):
    """A number of the whole daemon. /metrics, /status and the page show every row of TOTALS.

    slot: in the counters of each worker, summed over the workers. name: in /status. metric: in /metrics, without
    ``_total``. kind: ``counter`` or ``gauge``. only_direct_return: the metric exists only in the direct-return modes.
    by_backend: the metric has a row for each backend; /status has the rows and their sum.
    """

    slot: int
    name: str
    metric: str
    kind: str
    text: str
    only_direct_return: bool = False
    by_backend: bool = False


# One row for each total, short enough to read as a table.
# fmt: off
TOTALS: Final = (
    Total(PACKETS_RECEIVED, "received_packets", "qlb_packets_received", "counter",
          "Datagrams received from clients."),
    Total(BYTES_RECEIVED, "received_bytes", "qlb_bytes_received", "counter",
          "Octets of UDP payload received from clients."),
    Total(NO_SLOT, "bytes_forwarded", "qlb_bytes_forwarded", "counter",
          "Octets of UDP payload sent to backends.", by_backend=True),
    Total(NO_SLOT, "bytes_returned", "qlb_bytes_returned", "counter",
          "Octets of UDP payload from backends that were sent to their clients.", by_backend=True),
    Total(NO_SLOT, "new_flows", "qlb_new_flows", "counter",
          "Datagrams sent to backends that began a flow: they have a long header, and neither a CID config nor a flow "
          "table knew its connection IDs.", by_backend=True),
    Total(RETURN_DROPPED, "return_dropped_packets", "qlb_return_packets_dropped", "counter",
          "Datagrams from backends that could not be sent to their clients."),
    Total(RETURN_OVERFLOWED, "return_overflowed_packets", "qlb_return_overflowed_packets", "counter",
          "Datagrams from backends that the system dropped because a session's receive queue was full; a plane may "
          "learn of them only when the session closes."),
    Total(ICMP_FORWARDED, "icmp_forwarded", "qlb_icmp_forwarded", "counter",
          "ICMP errors about servers' packets that were forwarded to the server concerned.", only_direct_return=True),
    Total(ICMP_SENT, "icmp_sent", "qlb_icmp_sent", "counter",
          "ICMP messages sent to clients whose packets were too big to be forwarded.", only_direct_return=True),
    Total(SESSIONS, "sessions", "qlb_sessions", "gauge", "Open sessions."),
    Total(NO_SLOT, "sessions_max", "qlb_sessions_max", "gauge",
          "Sessions that may be open at once, in all workers."),
    Total(SESSIONS_EVICTED, "sessions_evicted", "qlb_sessions_evicted", "counter",
          "Sessions that were closed before their timeout to make room."),
    Total(SESSIONS_PROTECTED, "sessions_protected", "qlb_sessions_protected", "gauge",
          "Open sessions that their clients used in two separate seconds; evicted last."),
    Total(SESSIONS_REOPENED, "sessions_reopened", "qlb_sessions_reopened", "counter",
          "Sessions that got a new socket because the old one did not work any more."),
    Total(RETURN_PAUSES, "return_pauses", "qlb_return_pauses", "counter",
          "Times that a worker paused reading from a session because the send queue to clients was filling up."),
    Total(WRONG_IDS, "wrong_ids", "qlb_wrong_cids_shown", "counter",
          "Connection IDs in backends' answers that do not lead back to the backend, one for each connection."),
    Total(NO_SLOT, "worker_restarts", "qlb_worker_restarts", "counter", "Workers that died and were replaced."),
    Total(NO_SLOT, "worker_hangs", "qlb_worker_hangs", "counter",
          "Workers that were killed because they hung; they count as restarts too."),
)
# fmt: on
