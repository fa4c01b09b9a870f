"""Scrapes the metrics of the session's Ray, like Prometheus."""

import time
from collections.abc import Callable
from urllib.request import urlopen

import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def scrape() -> list[Sample]:
    (node,) = ray.nodes()
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30) as answer:
        return [sample for each in text_string_to_metric_families(answer.read().decode()) for sample in each.samples]


def wait_for(found: Callable[[list[Sample]], bool], seconds: float = 60) -> list[Sample]:
    """Scrapes until a metric is found; processes export every ten seconds."""
    deadline = time.monotonic() + seconds
    while not found(samples := scrape()):
        assert time.monotonic() < deadline, sorted({each.name for each in samples if "dtn" in each.name})
        time.sleep(0.5)
    return samples
