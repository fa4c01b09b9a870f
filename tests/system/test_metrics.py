"""What Prometheus would scrape of a real Ray, and that the dashboard and the alerts ask for nothing else."""

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import yaml
from files import encode
from PIL import Image
from prometheus_client.samples import Sample
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from scraping import scrape, wait_for

from dtn_ray import storage
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.metrics import JobMetrics, OutcomeMetrics, TrainingMetrics
from dtn_ray.resumable.options import Run
from dtn_ray.train.job import train

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana/dtn-ray.json").read_text())
OWN = "of this test"  # a cause, by which its counts are told from others'
RULES = yaml.safe_load((CLUSTER / "prometheus/rules.yml").read_text())


def total(samples: list[Sample], name: str, **labels: str) -> float:
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and the alerts."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    variables = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return panels + variables + [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


@ray.remote(num_cpus=0)
class Worker:
    """A process other than the driver's."""

    def work(self) -> None:
        training = TrainingMetrics("a-run")
        training.log(120, 55.5, {"L_d": 1.25, "L_const": 0.5})
        training.validated({"validation_L_const": 0.75})
        rows = [("converted", OWN, 100), ("converted", OWN, 50), ("failed", None, 7), ("failed", OWN, None)]
        self.outcomes = OutcomeMetrics()
        self.outcomes.add(
            pa.Table.from_pylist([dict(zip(("status", "cause", "size"), row, strict=True)) for row in rows])
        )


def test_what_dashboard_and_alerts_ask_for_is_exported(ray_cluster):
    worker = Worker.remote()
    before = scrape()
    ray.get(worker.work.remote())
    job = JobMetrics("conversion", "s3://b/out")
    job.count({"done_before": 4, "converted": 3, "no_face": 0, "failed": 2, "remaining": 1}, {"archived": 2})
    job.ended("failed", 12.5)
    samples = wait_for(
        lambda samples: (
            total(samples, "ray_dtn_job_seconds") == 12.5
            and total(samples, "ray_dtn_train_step", run="a-run") == 120
            and total(samples, "ray_dtn_images_total", cause=OWN) == 3
        )
    )
    run, where = {"run": "a-run"}, {"kind": "conversion", "out": "s3://b/out"}
    assert total(samples, "ray_dtn_train_images_per_second", **run) == 55.5
    assert total(samples, "ray_dtn_train_loss", loss="L_d", **run) == 1.25
    assert total(samples, "ray_dtn_train_validation", metric="validation_L_const", **run) == 0.75
    assert total(samples, "ray_dtn_ledger_images", status="remaining", **where) == 1
    assert total(samples, "ray_dtn_ledger_images", **where) == 10
    assert total(samples, "ray_dtn_ledger_failed", cause="archived", **where) == 2
    assert 0 <= time.time() - total(samples, "ray_dtn_job_end_timestamp_seconds", outcome="failed", **where) < 100

    def grown(name: str, **labels: str) -> float:
        return total(samples, name, **labels) - total(before, name, **labels)

    assert grown("ray_dtn_images_total", status="converted", cause=OWN) == 2
    assert grown("ray_dtn_images_total", status="failed", cause=OWN) == 1
    assert grown("ray_dtn_images_total", status="failed", cause="") >= 1
    assert grown("ray_dtn_bytes_read_total") >= 157, "or more, since what came before may be exported late"

    exported = {each.name for each in samples} | {f"ray_{name}" for name in METRICS_GAUGES}  # of GPUs too
    asked = {name for text in expressions() for name in re.findall(r"\bray_\w+", text)}
    assert asked <= exported
    ours = {name for name in exported if name.startswith("ray_dtn_")}
    assert ours <= asked, "nothing is exported that no one looks at"


def test_labels_in_dashboard_and_alerts_are_those_exported():
    ours = {"run", "loss", "metric", "kind", "out", "status", "cause", "outcome"}
    rays = {"instance", "Name", "State", "Location"}
    for text in expressions():
        matched = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", text)
        grouped = [name for names in re.findall(r"by \(([^)]*)\)", text) for name in names.split(", ")]
        assert {*matched, *grouped} <= ours | rays, text


def test_dashboard_and_prometheus_are_whole():
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Training",
        "Conversion and ingestion",
        "Cluster",
    ]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23, "no panel lies on another"
    config = yaml.safe_load((CLUSTER / "prometheus/prometheus.yml").read_text())
    assert all((CLUSTER / "prometheus" / name).is_file() for name in config["rule_files"])
    (scraped,) = config["scrape_configs"]
    assert scraped["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert {rule["alert"] for group in RULES["groups"] for rule in group["rules"]} >= {
        "RunFailed",
        "NoGoodRun",
        "RunStuck",
        "ManyFailures",
    }


def test_a_conversion_exports_its_ledger_and_its_images(made, tmp_path, ray_cluster):
    for i in range(5):
        storage.write_bytes(f"{tmp_path}/in/{i}.png", encode(Image.new("RGB", (32, 32), (40 * i, 90, 30))))
    storage.write_bytes(f"{tmp_path}/in/broken.png", b"not an image")
    out = f"{tmp_path}/out"
    before = scrape()
    convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", out, limit=2, actors=1))  # by an actor, and then by the driver
    convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", out))
    counts = {"done_before": 2, "converted": 3, "no_face": 0, "failed": 1, "remaining": 0}

    def ledger(samples: list[Sample]) -> dict[str, float]:
        return {name: total(samples, "ray_dtn_ledger_images", out=out, status=name) for name in counts}

    samples = wait_for(
        lambda samples: (
            ledger(samples) == counts
            and total(samples, "ray_dtn_images_total", status="converted")
            >= total(before, "ray_dtn_images_total", status="converted") + 5
        )
    )
    assert {each.labels["kind"] for each in samples if each.labels.get("out") == out} == {"conversion"}


@pytest.mark.slow
def test_a_training_exports_how_it_goes_from_rank_0_alone(experiment, tmp_path):
    found, ended = list[Sample](), threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            found.extend(each for each in scrape() if each.labels.get("run") == "watched")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        longer = replace(experiment, optim=replace(experiment.optim, steps=300))
        run = Run(storage=str(tmp_path), name="watched", workers=2, cpus_per_worker=1, log_every=5)
        finished = train(longer, replace(run, checkpoint_every=100))
    finally:
        ended.set()
        watcher.join()
    assert len({each.labels["WorkerId"] for each in found}) == 1
    values = {name: [each.value for each in found if each.name == name] for name in {each.name for each in found}}
    assert set(values) == {
        "ray_dtn_train_step",
        "ray_dtn_train_images_per_second",
        "ray_dtn_train_loss",
        "ray_dtn_train_validation",
    }
    steps = values["ray_dtn_train_step"]
    assert steps == sorted(steps) and steps[0] % 5 == 0 and 0 < steps[-1] <= 300
    assert min(values["ray_dtn_train_images_per_second"]) > 0
    losses = {each.labels["loss"] for each in found if "loss" in each.labels}
    assert losses <= finished.metrics.keys() and {"L_d", "L_const", "L_tid"} <= losses
    measured = {each.labels["metric"] for each in found if "metric" in each.labels}
    assert measured == {name for name in finished.metrics if name.startswith("validation_")}
