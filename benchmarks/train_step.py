"""Speed of a DTN's training step: in Ray Train against a bare torch loop, on two workers against one, and its parts.

python benchmarks/train_step.py        about five minutes on two idle CPU cores; nothing is downloaded

Every number that matters is a ratio of two loops which take turns in one run, so that what slows the machine for a
while slows both. The loops are the product's own (`dtn_ray.train`) and a bare one in a subprocess, which does the same
with the same data and nothing else; each computes with one thread per worker and at the priority of Ray's workers.
Only one of them runs at a time; the other waits at the start of a step. A turn of the Ray loop is compared with the
mean of the bare turns before and after it. Starting up is outside of all turns, and each turn's first steps, which may
find cold caches or hold a checkpoint, are not timed; logging is, and the upload that follows a checkpoint. f and the
judge are untrained: that does not change speed. Other work on the machine widens the spread, and where it keeps every
core busy, two workers scale worse than they would.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count, islice, pairwise
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import ray.train
import torch
import tyro
from torch import Tensor

from dtn_ray import cli
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import T_STREAM
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import batch_indices, step_seed
from dtn_ray.errors import UserError
from dtn_ray.method.augment import augment
from dtn_ray.method.dtn import DTNTrainer
from dtn_ray.method.features import FrozenF, moments
from dtn_ray.method.pixels import to_float
from dtn_ray.perceptual.load import build_classifier, load_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.train import job as training
from dtn_ray.train import loop as on_a_worker
from dtn_ray.train.digits import load_domains
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import embedded

GOAL = 0.97
UNTIMED = 2  # steps at the start of a turn
TO_THE_END = sys.maxsize  # a turn that is never over


@dataclass(frozen=True)
class Options:
    width: float = 0.25
    """Filters of g and D, relative to the paper's; f and the judge have twice that, at most the paper's."""
    batch_size: int = 64
    """Images of s, and as many of t, in one step over all workers."""
    steps: int = 20
    """Steps in one turn of a loop; even. The Ray loop logs twice in so many steps."""
    rounds: int = 12
    """Turns of each loop in each comparison."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast)."""
    out: str | None = None
    """File for the results as JSON, besides stdout."""


class Turns:
    """A training loop's side of taking turns: `tick`, called at the start of every step, waits there and takes times.

    Over the connection come numbers of steps to run, and back go the seconds of each of them, from tick to tick.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection, self.steps = connection, 0
        self.times: list[float] = []

    def tick(self) -> None:
        """Returns when the next step may run. Raises EOFError when no more turns come."""
        self.times.append(time.perf_counter())
        if len(self.times) > self.steps:
            self.connection.send([after - before for before, after in pairwise(self.times)])
            self.steps = self.connection.recv()
            self.times = [time.perf_counter()]


def turn(connection: Connection, steps: int) -> list[float]:
    """Lets the loop at the other end run so many steps; the seconds of each."""
    connection.send(steps)
    return connection.recv()


def steady(seconds: list[float]) -> float:
    """Seconds per step of a turn, without its first steps."""
    return statistics.mean(seconds[UNTIMED:])


# The bare loop.


def bare_trainer(experiment: Experiment, s: LabelledImages) -> DTNTrainer:
    """The networks and optimisers of an experiment without Ray, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(experiment.seed)
    f, _ = load_classifier(experiment.model.f or "")
    dtn = build_dtn(experiment, FrozenF(f, moments(f, [to_float(s.images[:4096])]).scale))
    return DTNTrainer(dtn, experiment.loss, experiment.optim)


def batches(experiment: Experiment, s: LabelledImages, t: LabelledImages) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The arguments of `DTNTrainer.step`, one step after the other, as the training loop makes them."""
    size, seed = experiment.optim.batch_size, experiment.seed
    for step in count():
        torch.manual_seed(step_seed(seed, step))
        s_batch = to_float(s.images[batch_indices(len(s), size, step, seed)])
        t_batch = to_float(t.images[batch_indices(len(t), size, step, seed + T_STREAM)])
        yield augment(s_batch, experiment.data.augment_s), t_batch, step


def bare_loop(connection: Connection, experiment: Experiment, s: LabelledImages, t: LabelledImages) -> None:
    """Runs in a process of its own, as many steps as the turns it is given."""
    # Ray runs its workers at a lower priority. With another one here, other work would slow one loop alone.
    os.nice(int(os.environ.get("RAY_worker_niceness", "15")))  # noqa: SIM112
    trainer, turns = bare_trainer(experiment, s), Turns(connection)
    with suppress(EOFError):
        for arguments in batches(experiment, s, t):
            turns.tick()
            trainer.step(*arguments)


# The loop in Ray Train.


@dataclass(frozen=True)
class Round:
    """Seconds of each step in a turn of the Ray loop, and in the turns of the bare loop before and after it."""

    ray: list[float]
    bare: tuple[list[float], list[float]]

    @property
    def ratio(self) -> float:
        """Speed of the Ray loop, relative to the bare one's."""
        return statistics.mean(map(steady, self.bare)) / steady(self.ray)


def compare(experiment: Experiment, workers: int, bare: Connection, options: Options, folder: str) -> list[Round]:
    """One training by `dtn_ray.train`, taking turns with the bare loop."""
    steps, rounds = options.steps, options.rounds
    listener = Listener()
    address = listener.address
    done: list[Round] = []

    def loop(settings: dict[str, Any]) -> None:
        """In each Ray worker: the product's own loop; its first worker waits for its turns, the others for it."""
        if ray.train.get_context().get_world_rank():
            on_a_worker.loop(settings)
            return
        turns, step = Turns(Client(address)), DTNTrainer.step

        def step_in_turn(*arguments: Any) -> dict[str, Tensor]:
            turns.tick()
            return step(*arguments)

        with mock.patch.object(DTNTrainer, "step", step_in_turn):
            on_a_worker.loop(settings)

    def take_turns() -> None:
        with listener, listener.accept() as worker:
            worker.recv()  # it is at its first step
            turn(worker, steps - 1)  # puts steps that log and save at the same place in all turns
            before = turn(bare, steps)
            for number in range(rounds):
                seconds, after = turn(worker, steps), turn(bare, steps)
                done.append(Round(seconds, (before, after)))
                before = after
                tell(f"{workers} worker(s), round {number + 1} of {rounds}: {done[-1].ratio:.3f} of the bare loop")
            worker.send(TO_THE_END)

    optim = replace(experiment.optim, steps=(rounds + 1) * steps)  # one step is left after the last turn
    run = Run(
        storage=folder,
        name=f"{workers}-workers",
        workers=workers,
        cpus_per_worker=1,
        log_every=steps // 2,
        # In the first step of every other turn; that of two workers would tell nothing new.
        checkpoint_every=2 * steps if workers == 1 else TO_THE_END,
        max_failures=0,
    )
    referee = threading.Thread(target=take_turns, daemon=True)
    referee.start()
    with mock.patch.object(training, "loop", loop):  # in this process; the workers import the original
        training.train(replace(experiment, optim=optim), run)
    referee.join()
    return done


def checkpoints(rounds: list[Round]) -> list[float]:
    """Seconds that each validation, checkpoint and report took beyond a step."""
    return [each.ray[0] - steady(each.ray) for each in rounds[1::2]]


# Where a step's time goes.


class Stopwatch:
    """Charges all time that passes to one account at a time, so that the accounts add up to the whole."""

    def __init__(self, account: str) -> None:
        self.seconds: dict[str, float] = {}
        self.account, self.since = account, time.perf_counter()

    def switch(self, account: str) -> None:
        """Charges the time since the last switch to the account that was open, and opens another."""
        now = time.perf_counter()
        self.seconds[self.account] = self.seconds.get(self.account, 0.0) + now - self.since
        self.account, self.since = account, now


OTHER = "losses and all else"


def watch(trainer: DTNTrainer, clock: Stopwatch) -> None:
    """Makes a trainer's networks, optimisers and average switch the stopwatch when they are called.

    One thread computes, and autograd takes the calls in reverse: in g's update first f's, then D's, then g's. The
    backward pass of a network begins with the gradient of its output, where a hook switches. What lies between two
    networks (the gradient of a loss) stays with the one before.
    """

    def timed(call: Callable[..., Any], before: str, after: str = OTHER, backward: str | None = None) -> Callable:
        def wrapper(*arguments: Any) -> Any:
            clock.switch(before)
            result = call(*arguments)
            for output in [result] if isinstance(result, Tensor) else result or ():
                if backward is not None and output.requires_grad:
                    output.register_hook(lambda _: clock.switch(backward))
            clock.switch(after)
            return result

        return wrapper

    f_of_inputs = timed(trainer.f, "f forward, on s and t")
    f_of_G = timed(trainer.f, "update of g: f forward", backward="update of g: backward through f")
    trainer.f = lambda *arguments: (f_of_G if torch.is_grad_enabled() else f_of_inputs)(*arguments)
    trainer.g = timed(trainer.g, "g forward, on s and t", backward="update of g: backward through g")
    # D's own update goes on until its optimiser is called.
    trainer.D = timed(trainer.D, "update of D: forward and backward", after="update of D: forward and backward")
    trainer.D_for_g = timed(trainer.D_for_g, "update of g: D forward", backward="update of g: backward through D")
    for optimizer in trainer.optimizers.values():
        optimizer.step = timed(optimizer.step, "optimisers")
    if trainer.ema is not None:
        trainer.ema.update_parameters = timed(trainer.ema.update_parameters, "running average of g")


def parts(experiment: Experiment, s: LabelledImages, t: LabelledImages, steps: int) -> dict[str, float]:
    """Seconds of a step's parts in a bare loop, by a stopwatch around the calls that a step makes; medians."""
    trainer, feed = bare_trainer(experiment, s), batches(experiment, s, t)
    for arguments in islice(feed, steps // 4):
        trainer.step(*arguments)
    clock, records = Stopwatch("data preparation"), []
    watch(trainer, clock)
    for arguments in islice(feed, steps):
        clock.switch(OTHER)
        trainer.step(*arguments)
        clock.switch("data preparation")
        records.append(clock.seconds)
        clock.seconds = {}
    return {account: statistics.median(record[account] for record in records) for account in records[0]}


# All of it.


def main(options: Options) -> dict[str, Any]:
    if options.steps % 2 or options.steps < 2 * UNTIMED or options.rounds < 2:
        raise UserError(f"--steps must be even and at least {2 * UNTIMED}, --rounds at least 2")
    if (os.cpu_count() or 1) < 2:
        raise UserError("the comparison of one worker with two needs two CPU cores")
    began = time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray does for workers of one CPU
    os.environ["RAY_ADDRESS"] = "local"  # a Ray of its own, whatever else runs here
    spawn = multiprocessing.get_context("spawn")
    # Ray's workers print; stdout is for the results.
    with tempfile.TemporaryDirectory(prefix="dtn-benchmark-") as folder, redirect_stdout(sys.stderr):
        experiment = prepare(options, folder)
        s, t = load_domains(experiment)
        bare, other_end = spawn.Pipe()
        process = spawn.Process(target=bare_loop, args=(other_end, experiment, s, t), daemon=True)
        process.start()
        other_end.close()
        bare.recv()

        tell("bare loop without Ray")
        turn(bare, options.steps)
        alone = [turn(bare, options.steps) for _ in range(options.rounds // 2)]
        tell("one worker")
        one = compare(experiment, 1, bare, options, folder)
        tell("two workers")
        two = compare(experiment, 2, bare, options, folder)
        ray.shutdown()
        tell("bare loop without Ray")
        turn(bare, options.steps)
        alone += [turn(bare, options.steps) for _ in range(options.rounds // 2)]
        bare.close()
        process.join()
        tell("parts of a step")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            seconds = pool.submit(parts, experiment, s, t, options.steps).result()

    results = summary(options, alone, one, two, seconds)
    results["seconds"] = round(time.perf_counter() - began)
    if options.out is not None:
        Path(options.out).write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return results


def prepare(options: Options, folder: str) -> Experiment:
    """The embedded experiment at the size asked for, with checkpoints of an untrained f and judge."""
    preset, width_f = embedded(), min(2 * options.width, 1.0)
    for role in ("f", "judge"):
        config = Pretraining(width=width_f)
        networks = {"classifier": build_classifier(config)}
        checkpoint.save(Path(folder, role), "classifier", config, networks, metrics={"test_error": 0.9})
    model = replace(
        preset.model,
        f=str(Path(folder, "f")),
        judge=str(Path(folder, "judge")),
        width_g=options.width,
        width_D=options.width,
        width_f=width_f,
    )
    optim = replace(preset.optim, batch_size=options.batch_size, bf16=options.bf16)
    return replace(preset, model=model, optim=optim)


def summary(
    options: Options, alone: list[list[float]], one: list[Round], two: list[Round], seconds: dict[str, float]
) -> dict[str, Any]:
    """The results as plain values."""

    def rate(turns: list[list[float]]) -> float:
        return round(options.batch_size / statistics.median(map(steady, turns)), 1)

    beside = [turn for each in one for turn in each.bare]
    ratios = [each.ratio for each in one]
    ratio_of_one = statistics.median(ratios)
    saving, every = checkpoints(one), Run().checkpoint_every
    step = statistics.median(steady(each.ray) for each in one)
    total = sum(seconds.values())
    return {
        "settings": {name: value for name, value in asdict(options).items() if name != "out"},
        "versions": {"torch": torch.__version__, "ray": ray.__version__},
        "cpus": os.cpu_count(),
        "ray_against_bare": {
            "goal": GOAL,
            "ratio": spread(ratios),
            "rounds": [round(ratio, 4) for ratio in ratios],
            "ray_images_per_second": rate([each.ray for each in one]),
            "bare_images_per_second": rate(beside),
        },
        # Whether Ray's other processes slow the machine, which the ratio above cannot show: both loops suffer.
        "bare_beside_ray_against_alone": {
            "ratio": round(rate(beside) / rate(alone), 4),
            "alone_images_per_second": rate(alone),
        },
        "checkpoint": {
            "seconds": spread(saving),
            "every": every,
            "share": round(statistics.median(saving) / (statistics.median(saving) + every * step), 4),
        },
        "two_workers_against_one": {
            # Through the bare loop, which took turns with both.
            "ratio": spread([each.ratio / ratio_of_one for each in two]),
            "two_images_per_second": rate([each.ray for each in two]),
        },
        "parts_of_a_step": {
            "milliseconds": round(1000 * total, 2),
            "shares": {name: round(value / total, 4) for name, value in sorted(seconds.items(), key=lambda x: -x[1])},
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {name: round(of(values), 4) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


def table(results: dict[str, Any]) -> str:
    """The results for reading."""

    def row(name: str, value: str, note: str = "") -> str:
        return f"{name:<46}{value:>9}  {note}".rstrip()

    def between(values: dict[str, float], digits: int = 3) -> tuple[str, str]:
        return f"{values['median']:.{digits}f}", f"{values['min']:.{digits}f} to {values['max']:.{digits}f}"

    one, two, alone = (
        results[name] for name in ("ray_against_bare", "two_workers_against_one", "bare_beside_ray_against_alone")
    )
    saving, step = results["checkpoint"], results["parts_of_a_step"]
    ratio, extent = between(one["ratio"])
    cost, costs = between(saving["seconds"], 2)
    lines = [
        row("bare torch loop", f"{one['bare_images_per_second']:.1f}", "images/s"),
        row("Ray Train, 1 worker", f"{one['ray_images_per_second']:.1f}", "images/s"),
        row("Ray Train, 2 workers", f"{two['two_images_per_second']:.1f}", "images/s"),
        row("Ray Train against the bare loop", ratio, f"{extent}; goal: at least {one['goal']}"),
        row("2 workers against 1", *between(two["ratio"])),
        row("bare loop beside Ray against without Ray", f"{alone['ratio']:.3f}"),
        row("validation, checkpoint and report", cost, f"s, {costs}"),
        row(f"  of a training that saves every {saving['every']} steps", f"{saving['share']:.1%}"),
        "",
        row("one step of the bare loop", f"{step['milliseconds']:.1f}", "ms, of it"),
        *(row(f"  {name}", f"{share:.1%}") for name, share in step["shares"].items()),
    ]
    return "\n".join(lines)


def tell(message: str) -> None:
    """A line of progress."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    chosen = tyro.cli(Options, description=__doc__)
    cli.run(lambda: main(chosen))
