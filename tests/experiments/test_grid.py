"""Trainings, cells and tables as values: what is the same is trained and measured once."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from dtn_ray.errors import UserError
from dtn_ray.experiments.digits import Digits
from dtn_ray.experiments.distances import distances
from dtn_ray.experiments.figure3 import figure3
from dtn_ray.experiments.figure10 import figure10_digits
from dtn_ray.experiments.grid import Cell, Row, Table, Training, closure
from dtn_ray.experiments.job import TABLES
from dtn_ray.experiments.measures import transfer
from dtn_ray.experiments.options import Options
from dtn_ray.experiments.presets import presets
from dtn_ray.experiments.table1 import original, table1
from dtn_ray.experiments.table2 import table2
from dtn_ray.experiments.table3 import of_unseen, table3
from dtn_ray.experiments.trainings import Classifier, Transfer
from dtn_ray.train.options import Experiment


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(Options(embedded=True, seeds=2))


def trainings(table: Table) -> dict[str, Training]:
    return {each.key: each for each in closure([each for cell in table.cells for each in cell.of])}


def experiments(table: Table) -> dict[str, list[Experiment]]:
    """By title, the experiments of a row."""
    return {
        row.title: [each.experiment for cell in row.cells for each in cell.of if isinstance(each, Transfer)]
        for row in table.rows
    }


def test_settings_of_an_experiment_are_changed_by_their_names_alone():
    changed = Experiment().changed(beta=0.0, with_f=False, s_without=(3,), steps=7, seed=5)
    assert (changed.loss.beta, changed.model.with_f, changed.data.s_without) == (0.0, False, (3,))
    assert (changed.optim.steps, changed.seed) == (7, 5)
    assert changed.loss.alpha == Experiment().loss.alpha and changed != Experiment()
    assert changed.changed(beta=15.0, with_f=True, s_without=(), steps=6000, seed=0) == Experiment()
    with pytest.raises(UserError, match="betta: no such setting"):
        Experiment().changed(betta=0.0)


def test_a_key_changes_with_all_that_decides_the_result_and_with_nothing_else(digits):
    one = digits.transfer(3)
    assert one.key == digits.transfer(3).key
    others = [
        digits.transfer(4),
        digits.transfer(3, alpha=1.0),
        digits.transfer(3, t_without=(3,)),
        replace(one, f=digits.f_without(3)),
        replace(one, judge=Classifier(replace(digits.judge.config, seed=9))),
    ]
    assert len({each.key for each in (one, *others)}) == 6
    cells = [digits.scored(one), digits.scored(one, "other.mat"), digits.scored(others[0]), Cell(len, (one,))]
    assert len({cell.key for cell in cells}) == 4
    elsewhere = Digits(Options(embedded=True, seeds=1, out="elsewhere", concurrent=1, max_failures=9))
    assert elsewhere.transfer(3).key == one.key, "where it runs decides nothing"


def test_the_rows_of_table_1_are_the_papers(digits):
    rows = experiments(table1(digits))
    base = digits.transfer(3).experiment
    expected = {
        "Baseline method (Sec. 3)": {"with_f": False, "binary": True, "beta": 0.0},
        "DTN": {},
        "DTN w/o L_TID": {"beta": 0.0},
        "DTN w/o L_CONST": {"alpha": 0.0},
        "DTN G does not contain f": {"with_f": False},
        "DTN w/o L_D and L_GANG": {"gan": 0.0},
        "DTN w/o L_CONST & L_TID": {"alpha": 0.0, "beta": 0.0},
    }
    for title, changes in expected.items():
        assert rows[title] == [base.changed(**changes, seed=seed) for seed in (3, 4)], title
    assert rows["Original image"] == [base], "the judge on x does not depend on the seed"


def test_the_rows_of_table_3_lack_the_digit_where_they_say(digits):
    table = table3(digits)
    lacking = {
        row.title: (data.s_without, data.t_without, row.cells[0].of[0].f.config.without)
        for row in table.rows
        if (data := row.cells[0].of[0].experiment.data)
    }
    assert list(lacking.values()) == [
        ((), (), ()),
        ((3,), (), ()),
        ((), (3,), ()),
        ((3,), (3,), ()),
        ((3,), (3,), (3,)),
    ]
    assert all(
        each.experiment.data.f_without == each.f.config.without for row in table.rows for each in row.cells[0].of
    )


def test_an_f_that_was_given_serves_where_it_saw_all_classes(digits, made):
    with_f = Digits(Options(embedded=True, seeds=1, f=f"{made}/classifier", judge=f"{made}/classifier"))
    table = table3(with_f)
    given = {row.title: row.cells[0].of[0].f.kind for row in table.rows}
    assert list(given.values()) == ["given"] * 4 + ["classifier"]
    assert {each.kind for each in trainings(table1(with_f)).values()} == {"given", "dtn"}


def test_nothing_is_trained_twice_between_tables(digits):
    found = {name: trainings(make(digits)) for name, make in TABLES.items()}
    kinds = {name: sorted(each.kind for each in made.values()) for name, made in found.items()}
    assert kinds["table1"] == ["classifier"] * 2 + ["dtn"] * 14
    assert len(found["table3"].keys() - found["table1"].keys()) == 9, "8 DTNs, and f without '3'"
    assert not found["figure3"].keys() - found["table3"].keys()
    new = [each.kind for key, each in found["table2"].items() if key not in found["table1"]]
    assert sorted(new) == ["adaptation", "adaptation", "dann", "dann"]
    assert len(found["distances"].keys() - found["table1"].keys()) == 8
    dtn = table1(digits).rows[1].cells[0]
    assert dtn.key in {cell.key for cell in table3(digits).cells}, "even measured once"


def test_trainings_come_after_what_they_need():
    digits = Digits(Options(embedded=True, seeds=1))
    order = [each.key for each in closure([each for cell in table2(digits).cells for each in cell.of])]
    for training in trainings(table2(digits)).values():
        assert all(order.index(need.key) < order.index(training.key) for need in training.needs)


def test_trainings_share_data_where_only_networks_losses_and_rates_differ(digits):
    shared = {row.title: row.cells[0].of[0].shares for row in table1(digits).rows}
    assert len(set(shared.values())) == 1
    table = table3(digits)
    assert len({row.cells[0].of[0].shares for row in table.rows}) == 5
    assert digits.transfer(3).shares != digits.transfer(4).shares, "other images are held out"


def test_the_other_direction_keeps_f_and_has_a_judge_of_its_target(digits):
    [row] = figure10_digits(digits).rows
    [dtn] = row.cells[0].of
    assert (dtn.experiment.data.source, dtn.experiment.data.target) == ("handwritten-digits", "street-digits")
    assert dtn.f.key == digits.f.key and dtn.f.config.dataset == "street-digits"
    judge = dtn.judge.config
    assert (judge.dataset, judge.split, judge.augment.invert) == ("street-digits", "train", 0.0)
    assert judge.seed != dtn.f.config.seed, "or it would be f"
    text = "\n".join(figure10_digits(digits).caption)
    assert "s: handwritten-digits, split train. t: street-digits, split train." in text
    assert "judge trained on street-digits train" in text and "f trained on street-digits largest" in text


def test_a_table_lists_each_cell_once_and_all_rows_of_a_seed_before_the_next(digits):
    cells = table1(digits).cells
    assert len(cells) == len({cell.key for cell in cells}) == 14
    assert [cell.of[0].experiment.seed for cell in cells] == [3] * 7 + [4] * 7


def test_presets_differ_and_share_f(digits):
    rows = experiments(presets(digits))
    assert list(rows) == ["paper-digits", "digits", "embedded"]
    steps = {title: found[0].optim.steps for title, found in rows.items()}
    assert steps == {"paper-digits": 6000, "digits": 300, "embedded": 600}
    assert len({each.f.key for row in presets(digits).rows for each in row.cells[0].of}) == 1
    assert {found[0].model.width_g for found in rows.values()} == {0.25}, "the embedded digits need no more"


def test_distances_change_nothing_but_d_and_d2(digits):
    rows = experiments(distances(digits))
    found = [(rows[title][0].loss.d, rows[title][0].loss.d2) for title in rows]
    assert found == [("mse", "mse"), ("cosine", "mse"), ("hinge", "mse"), ("triplet", "mse"), ("mse", "gan")]
    assert len({each[0].changed(d="mse", d2="mse") for each in rows.values()}) == 1


def test_options_are_in_all_rows_and_in_the_caption():
    options = Options(embedded=True, seeds=1, width_g=0.1, steps=7, bf16=True, batch_size=32, epochs=2, first_seed=8)
    table = table1(Digits(options))
    for found in experiments(table).values():
        for each in found:
            assert (each.model.width_g, each.optim.steps, each.optim.batch_size, each.optim.bf16) == (0.1, 7, 32, True)
            assert each.seed == 8
    f = table.rows[1].cells[0].of[0].f.config
    assert (f.epochs, f.bf16) == (2, True)
    text = "\n".join(table.caption)
    assert "--width-g 0.1, --steps 7, --batch-size 32, --epochs 2, --bf16" in text
    assert "Seeds of the DTN: 8." in text and "chosen on seeds 0 to 2" in text


def test_a_caption_says_what_the_preset_adds_to_the_papers_settings():
    paper, ours = (
        "\n".join(table1(Digits(Options(data_dir="there", preset=preset, epochs=1))).caption)
        for preset in ("paper-digits", "digits")
    )
    assert "Preset paper-digits: α = β = 15, γ = 0, nothing added." in paper
    assert "optim.lr_g: 0.0002 → 0.001" in ours and "optim.ema_decay: 0.0 → 0.9995" in ours
    for text in (paper, ours):
        assert "unit variance over s" in text and "inverted colours" in text


def test_what_rows_read_of_a_cell():
    confusion = [[0] * 10 for _ in range(10)]
    confusion[3][3], confusion[3][8] = 6, 2
    values = {"confusion": confusion, "original_image_accuracy": 0.25, "images": 40}
    assert (of_unseen(values).value, of_unseen(values).images) == (0.75, 8)
    assert (original(values).value, original(values).images) == (0.25, 40)


def test_svhn_needs_a_folder():
    with pytest.raises(UserError, match="--data-dir DIR, or use the embedded digits: --embedded"):
        Digits(Options())


def test_own_rows_are_one_line_each(digits):
    rows = [digits.row(f"α = {alpha:g}", alpha=alpha) for alpha in (1.0, 2.0)]
    assert [row.cells[0].of[0].experiment.loss.alpha for row in rows] == [1.0, 2.0]
    assert isinstance(rows[0], Row) and len(rows[0].cells) == 2 and rows[0].cells[0].measure is transfer


def test_figure_3_shows_one_seed_of_each_row_of_table_3(digits):
    table = figure3(digits)
    assert [row.cells[0].of[0].key for row in table.rows] == [row.cells[0].of[0].key for row in table3(digits).rows]
    assert all(len(row.cells) == 1 for row in table.rows)


def test_download_fetches_once_and_is_no_part_of_a_name(monkeypatch):
    fetched = []
    monkeypatch.setattr(
        "dtn_ray.experiments.digits.load", lambda dataset, split, folder, download: fetched.append((dataset, split))
    )
    with_download = Digits(Options(data_dir="there", download=True, epochs=1))
    expected = [("svhn", "largest"), ("svhn", "train"), ("svhn", "test"), ("mnist", "train"), ("mnist", "test")]
    assert fetched == expected
    assert with_download.transfer(3).key == Digits(Options(data_dir="there", epochs=1)).transfer(3).key
    assert fetched == expected


def test_the_command_line_has_all_experiments(job):
    assert set(get_args(job("experiment").Name)) == set(TABLES)


def test_the_example_in_the_guide_makes_a_table(monkeypatch):
    page = (Path(__file__).parents[2] / "docs/how-to/experiments.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made = []
    monkeypatch.setattr("dtn_ray.experiments.job.make", lambda table, options: made.append((table, options)))
    exec(example, {})
    [(table, options)] = made
    assert [row.cells[0].of[0].experiment.loss.alpha for row in table.rows] == [1.0, 2.0, 5.0]
    assert len(table.cells) == 9 and options.out == "runs/alphas"


@pytest.mark.parametrize(("images", "epochs"), [(99_999, 40.0), (100_000, 5.0)])
def test_f_learns_as_long_as_train_py_would_let_it(monkeypatch, images, epochs):
    seen = []
    monkeypatch.setattr("dtn_ray.experiments.digits._images", lambda *asked: seen.append(asked) or images)
    digits = Digits(Options(data_dir="/there", source_split="extra"))
    assert digits.f.config.epochs == digits.f_without(3).config.epochs == epochs
    assert set(seen) == {("extra", "/there")}
    assert digits.judge.config.epochs == 5.0
