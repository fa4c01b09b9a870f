"""Ray Train: trains the DTN (Sec. 4), data-parallel, resumable at any step."""

from collections.abc import Sequence

from ray.train import UserCallback

from dtn_ray import storage
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished, run_training
from dtn_ray.train.loop import loop
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import Ready, prepare


def train(experiment: Experiment, run: Run) -> Finished:
    """Trains a DTN, after training f and the judge of digits if no checkpoints of them are given.

    The same call resumes where an earlier one stopped, and ends with the weights of an uninterrupted run. Raises
    UserError for bad settings, files or resources.
    """
    return fit(experiment, run, prepare(experiment, run))


def fit(experiment: Experiment, run: Run, ready: Ready, callbacks: Sequence[UserCallback] = ()) -> Finished:
    """Trains or resumes a DTN with the result of `prepare`. Raises UserError for other settings, or few resources."""
    name = run.name or ready.name
    config = {
        "experiment": experiment,
        "run": run,
        "inputs": ready.inputs,
        "facts": ready.facts,
        "folder": storage.join(run.storage, name),
        "quiet": bool(callbacks),  # the callbacks print their own progress
    }
    identity = {"kind": "dtn", "config": experiment, "f": ready.facts["f_digest"]}
    return run_training(loop, config, run, name, identity, ready.spare, callbacks)
