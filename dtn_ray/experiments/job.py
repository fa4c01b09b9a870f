"""A whole experiment: makes its table, trains and measures what is missing, writes Markdown, JSON and a picture."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
import torch

import dtn_ray
from dtn_ray import storage
from dtn_ray.bulk import lease
from dtn_ray.errors import UserError
from dtn_ray.experiments import figures, tables
from dtn_ray.experiments.beyond import beyond
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.distances import distances
from dtn_ray.experiments.figure3 import figure3
from dtn_ray.experiments.figure10 import figure10_digits
from dtn_ray.experiments.grid import Table
from dtn_ray.experiments.options import Options
from dtn_ray.experiments.presets import presets
from dtn_ray.experiments.runner import CELLS, Outcome, Runner
from dtn_ray.experiments.table1 import table1
from dtn_ray.experiments.table2 import table2
from dtn_ray.experiments.table3 import table3
from dtn_ray.resumable.options import Run
from dtn_ray.settings import check
from dtn_ray.storage.ownership import refuse_foreign

LEASE = "experiment-lease.json"  # in OUT, of the experiment that works there
LEASE_SECONDS = 30.0

TABLES: Mapping[str, Callable[[Digits], Table]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "figure3": figure3,
    "figure10-digits": figure10_digits,
    "distances": distances,
    "presets": presets,
    "beyond": beyond,
}


def experiment(name: str, options: Options) -> dict[str, Any]:
    """One of TABLES. Raises UserError as `make` does, and for a name that is none of them."""
    if name not in TABLES:
        raise UserError(f"{name}: no such experiment; there are {', '.join(TABLES)}")
    check(options)
    return make(TABLES[name](Digits(options)), options)


def make(table: Table, options: Options) -> dict[str, Any]:
    """Trains and measures what is missing of a table, and writes NAME.md, NAME.json and NAME.png into `options.out`.

    The same call continues where an earlier one stopped. NAME.md and NAME.json are written after each cell. Returns the
    rows' numbers and the files.

    Raises UserError for bad settings or files, where another experiment works in `options.out`, and where a cell
    failed; the table is written all the same.
    """
    with _alone(options.out) as held:
        return _make(table, options, held)


@contextlib.contextmanager
def _alone(out: str) -> Iterator[lease.Lease]:
    """Keeps other experiments out of OUT. Raises UserError if one works there.

    The lease of an experiment that was killed is waited for, so that the same command continues at once. Plain writes
    suffice against starting twice by mistake, and every store has them.
    """
    uri = storage.join(storage.absolute(out), LEASE)
    refuse_foreign(out, LEASE, ("holder",))
    try:
        held = lease.Lease(uri, LEASE_SECONDS, conditional=False)
    except lease.Held as error:
        wait = LEASE_SECONDS + lease.GRANULARITY
        print(f"{error} This command tries once more in {wait:.0f} s.", flush=True)
        time.sleep(wait)
        held = lease.Lease(uri, LEASE_SECONDS, conditional=False)
    try:
        yield held
    finally:
        held.release()


def _make(table: Table, options: Options, held: lease.Lease) -> dict[str, Any]:
    refuse_foreign(options.out, f"{table.name}.json", ("table", "rows"), [f"{table.name}.md", f"{table.name}.png"])
    run = Run(
        storage=options.out,
        gpu=options.gpu,
        cpus_per_worker=options.cpus_per_worker,
        checkpoint_every=options.checkpoint_every,
        max_failures=options.max_failures,
    )
    written: dict[str, Any] = {}

    def write(outcomes: Mapping[str, Outcome]) -> tables.Results:
        held.check()
        values = {key: each.values for key, each in outcomes.items() if each.values is not None}
        failures = {key: each.failure for key, each in outcomes.items() if each.failure is not None}
        found = tables.results(table, values, failures, storage.join(options.out, CELLS))
        written.update(tables.as_json(table, found, {"software": _software(), "hardware": _hardware(options.gpu)}))
        _write(options.out, f"{table.name}.json", json.dumps(written, indent=2).encode())
        _write(options.out, f"{table.name}.md", tables.markdown(table, found).encode())
        return found

    outcomes = Runner(table.name, run, options.concurrent)(table.cells, write)
    found = write(outcomes)
    _write(options.out, f"{table.name}.png", (table.draw or figures.rows)(table, found))
    print(tables.markdown(table, found).split("\n\n")[1], flush=True)
    if failed := [each.failure for each in outcomes.values() if each.failure is not None]:
        raise UserError(
            f"{storage.join(options.out, table.name)}.md: {len(failed)} of {len(table.cells)} cells failed: "
            f"{'; '.join(dict.fromkeys(failed))}. The same command tries them again"
        )
    files = [storage.join(options.out, f"{table.name}.{kind}") for kind in ("md", "json", "png")]
    shown = [{name: row[name] for name in ("title", "mean", "standard_deviation", "paper")} for row in written["rows"]]
    return {"rows": shown, "files": files}


def _write(out: str, name: str, content: bytes) -> None:
    storage.write_bytes(storage.join(out, name), content, root=out)


def _software() -> dict[str, str]:
    return {"dtn_ray": dtn_ray.__version__, "torch": torch.__version__, "ray": ray.__version__}


def _hardware(gpu: bool) -> str:
    """Of the machine that runs the driver."""
    if gpu and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPUs, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
