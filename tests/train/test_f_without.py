"""Classes that f never saw (Table 3): what --f-without says of an f that is given must be true."""

import shlex
from dataclasses import replace

import pytest
from files import write_classifier

from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.train.digits import prepare
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[tuple[int, ...], str]:
    """Checkpoints of classifiers, by the classes that they never saw."""
    folder, config = tmp_path_factory.mktemp("f"), Pretraining(dataset="handwritten-digits", width=0.05)
    return {
        without: write_classifier(folder / f"without-{without}", replace(config, without=without))[0]
        for without in ((), (3,), (3, 5))
    }


@pytest.mark.parametrize(
    ("recorded", "said", "record", "instead"),
    [
        ((), "3", "trained on all classes", "leave out --f-without"),
        ((3,), "3 5", "trained without the classes 3", "say --f-without 3"),
        ((3, 5), "3", "trained without the classes 3 5", "say --f-without 3 5"),
        ((3,), "5", "trained without the classes 3", "say --f-without 3"),
    ],
)
def test_an_f_whose_record_says_otherwise_is_refused(call, given, tmp_path, recorded, said, record, instead):
    f = shlex.quote(given[recorded])
    code, _, err = call(
        f"train --source handwritten-digits --f {f} --judge {f} --f-without {said} --storage {tmp_path}/runs"
    )
    last = err.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in err
    assert f"--f-without {said}: by its record, --f {given[recorded]} was {record}. " in last
    assert f"jobs/pretrain.py --without {said} trained; or leave out --f, and this run trains one; or " in last
    assert last.endswith(instead)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("said", [(3, 5), (5, 3), (5, 3, 3)])
def test_an_f_whose_record_says_the_same_is_used(given, tmp_path, capsys, said):
    prepared = prepare(experiment(given[3, 5], said), Run(storage=str(tmp_path)))
    assert prepared.facts["f"]["without"] == [3, 5]
    assert "without the classes" not in capsys.readouterr().out


def test_an_f_that_lacks_classes_says_so(given, tmp_path, capsys):
    prepared = prepare(experiment(given[3, 5], ()), Run(storage=str(tmp_path)))
    assert prepared.facts["f"]["without"] == [3, 5]
    assert f"{given[3, 5]}: this f was trained without the classes 3 5" in capsys.readouterr().out


def experiment(f: str, f_without: tuple[int, ...]) -> Experiment:
    return Experiment(
        data=DataConfig(source="handwritten-digits", source_split="train", f_without=f_without),
        model=ModelConfig(f=f, judge=f),
    )
