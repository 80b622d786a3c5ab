"""The daemon's HTTP server as a scraper sees it, and the sums that agree in every scrape after traffic."""

import asyncio
from typing import Final, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from lab.nat import Address

POLL_S: Final = 0.02
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)


class Metrics(NamedTuple):
    """One scrape of /metrics: (name, labels) → value."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def parse(cls, text: str) -> "Metrics":
        """Parse the Prometheus text format."""
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels. 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (found, having), value in self.samples.items() if found == name and wanted <= having)

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the sums of a metric by the values of one label, without sums of 0."""
        values = {dict(having)[label] for found, having in self.samples if found == name and label in dict(having)}
        sums = {value: self.total(name, **{label: value, **labels}) for value in values}
        return {value: found for value, found in sums.items() if found}

    @property
    def received(self) -> float:
        """Return the number of packets from clients."""
        return self.total("qlb_packets_received_total")

    @property
    def forwarded(self) -> float:
        """Return the number of packets that went to backends."""
        return self.total("qlb_packets_forwarded_total")

    @property
    def dropped(self) -> float:
        """Return the number of dropped packets."""
        return self.total("qlb_packets_dropped_total")

    def check_sums(self) -> None:
        """Assert that every received packet is counted once as forwarded or dropped, and that the parts agree."""
        assert self.received == self.forwarded + self.dropped
        by_route = self.by("qlb_packets_forwarded_total", "route")
        assert self.forwarded == sum(by_route.values())
        assert by_route.get("cid", 0) == self.total("qlb_cid_config_packets_total")
        unroutable = self.total("qlb_unroutable_packets_total")
        assert by_route.get("flow", 0) + by_route.get("fallback", 0) == unroutable
        assert self.total("qlb_new_flows_total") <= unroutable
        received_bytes = self.total("qlb_bytes_received_total")
        forwarded_bytes = self.total("qlb_bytes_forwarded_total")
        assert forwarded_bytes == received_bytes if not self.dropped else forwarded_bytes <= received_bytes


async def get(address: Address, path: str) -> tuple[int, str]:
    """GET a page. Return (status, text). Raises aiohttp.ClientError or OSError if no server answers."""
    host, port = address
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(f"http://{host}:{port}{path}") as answer:
        return answer.status, await answer.text()


async def metrics(address: Address) -> Metrics:
    """Scrape /metrics."""
    _, text = await get(address, "/metrics")
    return Metrics.parse(text)


async def settled(address: Address) -> Metrics:
    """Scrape until no packet is in transit: two scrapes agree, and every packet is accounted for."""
    before = await metrics(address)
    while True:
        await asyncio.sleep(POLL_S)
        now = await metrics(address)
        if now.received == before.received == now.forwarded + now.dropped:
            return now
        before = now
