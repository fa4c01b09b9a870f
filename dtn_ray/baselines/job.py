"""Runs each method by itself."""

import json
from typing import Any

import ray
import torch

from dtn_ray import storage
from dtn_ray.baselines.features import features, pixels
from dtn_ray.baselines.loop import Inputs, loop
from dtn_ray.baselines.options import AdaptationOptions, AlignmentOptions
from dtn_ray.data.digits import load
from dtn_ray.data.feed import InMemoryAdaptation
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError
from dtn_ray.models.digits import DigitF
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import score
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished, run_training
from dtn_ray.settings import check, fingerprint
from dtn_ray.storage.ownership import refuse_foreign


def adapt(options: AdaptationOptions, run: Run) -> Finished:
    """Trains DANN or FixMatch, by the kind of its options; its checkpoint loads as a classifier.

    Metrics: `accuracy`, `accuracy_95` and `images` of the target, `test_error` of the source's test split. The same
    call goes on where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    if options.steps < 1:
        raise UserError("--steps must be at least 1")
    run.check(options.batch_size)
    check(options)

    f = _to_begin_with(options)

    def read(dataset: str, split: str) -> LabelledImages:
        return load.load(dataset, split, options.data_dir, download=options.download)

    source, target = read(options.source, options.source_split), read(options.target, options.target_split)
    tests = read(options.source, options.source_test_split), read(options.target, options.test_split)
    connect(trains=True)
    # In the object store once per node: its workers share the arrays without copies.
    inputs = Inputs(ray.put(InMemoryAdaptation(source, target.images)), *map(ray.put, (*tests, f)))
    name = run.name or f"{options.method}-{options.source}-{options.target}-{fingerprint(options)}"
    settings = {"config": options, "run": run, "inputs": inputs}
    return run_training(loop, settings, run, name, {"kind": options.method, "config": options})


def _to_begin_with(options: AdaptationOptions) -> DigitF | None:
    if options.f is None:
        return None
    f, manifest = load_classifier(options.f)
    if (width := manifest["config"]["width"]) != options.width:
        raise UserError(f"--f {options.f}: a network of --width {width}, but --width {options.width} is given")
    return f


def run_subspace_alignment(options: AlignmentOptions) -> dict[str, Any]:
    """Runs SA once for each number of dimensions, and writes scores.json into `options.out`.

    Returns plain values: `accuracy`, `accuracy_95` and `images` at `dimensions`; `accuracies` at all; and of f, where
    it was given, `source_only`, the accuracy of its own classifier. Raises UserError for bad settings or files.
    """
    from dtn_ray.baselines.subspace_alignment import subspace_alignment

    check(options)
    refuse_foreign(options.out, "scores.json", ("method", "accuracies"))
    if not options.dimensions:
        raise UserError("--dimensions: needs one or more numbers")
    source = load.load(options.source, options.source_split, options.data_dir, download=options.download)
    target = load.load(options.target, options.target_split, options.data_dir, download=options.download)
    if options.f is not None:
        f, _ = load_classifier(options.f)
        vectors = features(f, source.images), features(f, target.images)
        with torch.no_grad():
            own = f.classifier(torch.from_numpy(vectors[1])).argmax(1).numpy()
        more = {"source_only": score(own, target.labels)["accuracy"]}
    else:
        vectors, more = (pixels(source.images), pixels(target.images)), {}
    most = min(*vectors[0].shape, len(target))
    if too_many := [each for each in options.dimensions if each > most]:
        raise UserError(f"--dimensions {too_many[0]}: these vectors allow at most {most}")

    found = {}
    for dimensions in options.dimensions:
        predicted = subspace_alignment(
            vectors[0], source.labels, vectors[1], dimensions=dimensions, classifier=options.classifier
        )
        found[dimensions] = score(predicted, target.labels)
        print(f"{dimensions} dimensions: accuracy {found[dimensions]['accuracy']:.4f}", flush=True)
    best = max(found, key=lambda dimensions: found[dimensions]["accuracy"])
    values = {
        "method": "subspace alignment",
        "f": options.f,
        "classifier": options.classifier,
        "dimensions": best,
        "chosen_by_target_labels": len(found) > 1,
        **found[best],
        "accuracies": {str(dimensions): each["accuracy"] for dimensions, each in found.items()},
        **more,
        "source_images": len(source),
    }
    storage.write_bytes(storage.join(options.out, "scores.json"), json.dumps(values, indent=2).encode())
    return values
