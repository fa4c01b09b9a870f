"""Training sets as others write them: other layouts of Parquet, files that hold no rows, rows that hold no image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode, write_face_network
from PIL import Image

from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.rows import count_rows, find_groups, find_people, identities
from dtn_ray.data.windows import Window, read_window, sample_rows
from dtn_ray.errors import UserError
from dtn_ray.method.options import OptimConfig
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import run_training
from dtn_ray.train.job import train
from dtn_ray.train.options import DataConfig, Experiment
from dtn_ray.train.presets import paper_faces


def grey(value: int) -> bytes:
    return encode(Image.new("RGB", (8, 8), (value,) * 3))


def write(path: Path, images, rows: int = 10, **columns) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=rows)
    return str(path)


def window(uri: str, seed: int = 0) -> Window:
    return Window(tuple(find_groups(uri)), (seed,))


def values(some: Window) -> list[int]:
    return [int(image[0, 0, 0]) for block in read_window(some, 8) for image in block["image"]]


PLAIN = [grey(i) for i in range(20)]
LAYOUTS = {
    "hugging-face": pa.array([{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(PLAIN)]),
    "hugging-face-large": pa.array(
        [{"bytes": each, "path": None} for each in PLAIN],
        pa.struct({"bytes": pa.large_binary(), "path": pa.string()}),
    ),
    "large": pa.array(PLAIN, pa.large_binary()),
    "view": pa.array(PLAIN, pa.binary_view()),
    "dictionary": pa.array(PLAIN, pa.binary()).dictionary_encode(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_encoded_images_is_read(layout: str, tmp_path) -> None:
    plain = values(window(write(tmp_path / "plain.parquet", pa.array(PLAIN, pa.binary()))))
    assert sorted(plain) == list(range(20))
    assert values(window(write(tmp_path / f"{layout}.parquet", LAYOUTS[layout]))) == plain


def test_files_of_several_layouts_make_one_set(tmp_path) -> None:
    for name, images in LAYOUTS.items():
        write(tmp_path / f"{name}.parquet", images)
    assert sorted(values(window(str(tmp_path)))) == sorted(list(range(20)) * len(LAYOUTS))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pa.array([[1, 2, 3]]), "holds lists .*, which are pixels rather than an encoded image"),
        (pa.array([[[1, 2], [3, 4]]]), "holds lists"),
        (pa.array(["iVBORw0KGgo="]), "holds text: file names or base64 rather than bytes"),
        (pa.array([{"path": "a.png"}]), r"holds structs without a field `bytes` \(path\)"),
        (pa.array([7]), "holds values of type int64"),
    ],
)
def test_what_holds_no_encoded_images_is_named_as_what_it_is(images, message, tmp_path) -> None:
    uri = write(tmp_path / "set.parquet", images)
    with pytest.raises(UserError, match=rf"set\.parquet: its column `image` {message}.*as Hugging Face writes them"):
        find_groups(uri)


def test_files_that_others_leave_beside_a_set_are_no_part_of_it(tmp_path) -> None:
    write(tmp_path / "a.parquet", pa.array(PLAIN))
    write(tmp_path / "year=2026/b.parquet", pa.array(PLAIN))
    write(tmp_path / "_year=2026/c.parquet", pa.array(PLAIN))  # a Hive partition by a column of that name
    for name in ("._a.parquet", "_temporary/0/half.parquet", "__MACOSX/._a.parquet", ".hidden/a.parquet", "_SUCCESS"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    found = {Path(group.uri).relative_to(tmp_path).as_posix() for group in find_groups(str(tmp_path))}
    assert found == {"a.parquet", "year=2026/b.parquet", "_year=2026/c.parquet"}


def test_a_folder_of_people_out_of_a_macs_zip_has_no_person_more(tmp_path) -> None:
    for name in ("anna/1.png", "anna/2.png", "_bob/1.png", "__MACOSX/anna/._1.png", "anna/._1.png", "@eaDir/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07" if "._" in name else grey(1))
    people = find_people(str(tmp_path))
    assert identities(people) == ["_bob", "anna"] and count_rows(people) == 3


def test_the_next_good_row_takes_the_place_of_a_bad_one(tmp_path) -> None:
    images: list[bytes | None] = [*PLAIN]
    images[3], images[17] = None, b"not an image"
    some = window(write(tmp_path / "set.parquet", pa.array(images, pa.binary())))
    order = list(np.random.default_rng((0,)).permutation(20))
    expected = [int(row) for row in order]
    for row in (3, 17):
        place = order.index(row)
        following = [order[(place + i) % 20] for i in range(1, 20)]
        expected[place] = int(next(each for each in following if each not in (3, 17)))
    assert values(some) == expected
    for start in range(20):  # a resumed training sees the same rows
        assert values(replace(some, start=start)) == expected[start:]
    (block,) = read_window(some, 8)
    assert {order[place]: text for place, text in enumerate(block["bad"]) if text} == {
        3: f"{tmp_path}/set.parquet, row 3 of row group 0: no image",
        17: f"{tmp_path}/set.parquet, row 7 of row group 1: not an image of a known format",
    }


def test_a_row_without_an_identity_is_bad(tmp_path) -> None:
    names = [None if i == 4 else f"person {i % 3}" for i in range(20)]
    people = find_people(write(tmp_path / "set.parquet", pa.array(PLAIN), identity=names))
    assert identities(people) == ["person 0", "person 1", "person 2"]
    (block,) = read_window(Window(tuple(people), (0,)), 8, ["identity"])
    assert [text for text in block["bad"] if text] == [f"{tmp_path}/set.parquet, row 4 of row group 0: no identity"]
    for image, name in zip(block["image"], block["identity"], strict=True):
        assert name == f"person {image[0, 0, 0] % 3}"  # the row that takes the place comes with its own person
    sampled = sample_rows(people, 20, 8, ["identity"])
    assert sorted(sampled["image"][:, 0, 0, 0]) == [i for i in range(20) if i != 4]


def test_a_damaged_row_group_is_bad_rows_and_a_file_that_is_gone_is_named(tmp_path) -> None:
    path = Path(write(tmp_path / "set.parquet", pa.array(PLAIN, pa.binary())))
    some = window(str(path))
    first = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    content[start : start + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(content)
    (block,) = read_window(some, 8)
    assert sum(bool(text) for text in block["bad"]) == 10 and len(block["image"]) == 20
    assert set(block["image"][:, 0, 0, 0]) <= set(range(10, 20))
    path.unlink()
    with pytest.raises(UserError, match=r"set\.parquet: this file was deleted after the training began"):
        list(read_window(some, 8))


def test_a_set_of_which_most_rows_are_bad_is_refused(tmp_path) -> None:
    images = pa.array([*PLAIN[:9], *[b"text"] * 11])
    groups = find_groups(write(tmp_path / "set.parquet", images))
    with pytest.raises(UserError, match=r"11 of 20 sampled rows hold no image, such as .*not an image"):
        sample_rows(groups, 20, 8)
    groups = find_groups(write(tmp_path / "none.parquet", pa.array([b"text"] * 5)))
    with pytest.raises(UserError, match="nor does any other of 5 rows around it hold an image"):
        sample_rows(groups, 5, 8)


def test_bad_rows_count_once_and_are_named_up_to_ten(capsys) -> None:
    bad = BadRows(limit=12)
    bad.add([f"row {i}: no image" for i in range(12)] + ["", "row 3: no image"])
    assert len(bad) == 12
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == "warning: row 0: no image; this row is left out"
    assert lines[-1].endswith("this row is left out; further rows are only counted")
    with pytest.raises(UserError, match=r"row 12: no image; more than --max-bad-rows 12 rows hold no image"):
        bad.add(["row 12: no image"])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """A DTN of faces that trains in seconds, on sets of which two and three rows are bad."""
    folder = tmp_path_factory.mktemp("bad-rows")
    rng = np.random.default_rng(0)
    pictures: list[bytes | None] = [
        encode(Image.fromarray(each).resize((24, 24), Image.Resampling.BICUBIC))
        for each in rng.integers(0, 256, (60, 6, 6, 3), np.uint8)
    ]
    s, t = [*pictures[:40]], [*pictures[40:]]
    s[3], s[17] = None, b"not an image"
    t[0], t[1], t[2] = b"", None, t[2] and t[2][:60]
    struct = pa.array([{"bytes": each, "path": ""} for each in t])
    paper = paper_faces()
    return replace(
        paper,
        data=DataConfig(
            source=write(folder / "s/a.parquet", pa.array(s, pa.binary()), rows=7),
            target=write(folder / "t/a.parquet", struct, rows=9),
            size=24,
            validation=2,
        ),
        model=replace(
            paper.model,
            f=write_face_network(folder / "f.onnx", seed=1),
            width_g=0.03,
            width_D=0.03,
            size_D=64,
            upscaling="nearest",
        ),
        optim=OptimConfig(steps=12, batch_size=8),
    )


@pytest.mark.slow
def test_a_training_goes_on_without_its_bad_rows(experiment, tmp_path, ray_cluster) -> None:
    outcome = train(experiment, Run(storage=str(tmp_path), name="some", cpus_per_worker=1, checkpoint_every=12))
    assert outcome.metrics["step"] == 12  # 96 rows of s: more than two epochs
    assert outcome.metrics["bad_rows"] == 5


@pytest.mark.slow
def test_too_many_bad_rows_end_it_at_once(experiment, tmp_path, ray_cluster) -> None:
    run = Run(storage=str(tmp_path), name="strict", cpus_per_worker=1, max_bad_rows=1)
    with pytest.raises(UserError, match=r"a\.parquet, row .*; more than --max-bad-rows 1 rows hold no image"):
        train(experiment, run)


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "times"), [(True, 1), (False, 2)])
def test_a_mistake_of_the_users_is_not_tried_again(mistake: bool, times: int, tmp_path, ray_cluster) -> None:
    tried = tmp_path / "tried"

    def loop(config: dict) -> None:
        with tried.open("a") as file:
            file.write("once\n")
        raise UserError("a.parquet: no good") if mistake else RuntimeError("a passing fault")

    run = Run(storage=f"{tmp_path}/runs", cpus_per_worker=1, max_failures=1)
    message = "^a.parquet: no good$" if mistake else "stopped after --max-failures 1 restarts: .*a passing fault"
    with pytest.raises(UserError, match=message):
        run_training(loop, {}, run, "run", {"kind": "none"})
    assert tried.read_text().count("once") == times
