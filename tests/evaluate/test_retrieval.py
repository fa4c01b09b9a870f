"""Table 4: ranks against those worked out by hand and by brute force, and the whole of it on Ray."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from files import encode, write_face_network, write_faces, write_faces_dtn
from PIL import Image
from scipy import stats

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.rows import Group, find_groups
from dtn_ray.data.windows import decode_row
from dtn_ray.errors import UserError
from dtn_ray.evaluate import examiner as examining
from dtn_ray.evaluate import ranking, retrieval
from dtn_ray.evaluate.options import Retrieval
from dtn_ray.evaluate.ranking import Counts, Hit
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.perceptual.load import build_deepface, load_face_network, load_imported
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.train.trained import load_trained

# Counting


def at_degrees(*angles: float) -> np.ndarray:
    """Features of two numbers: their cosines are those of the angles between them; lengths differ."""
    radians = np.deg2rad(angles)
    lengths = 1 + np.arange(len(angles))
    return (np.stack([np.cos(radians), np.sin(radians)], axis=1) * lengths[:, None]).astype(np.float32)


PROBES, MATES = at_degrees(0, 90, 0), at_degrees(30, 90, 179)
DISTRACTORS = at_degrees(0, 10, -20, 30, -30, 45, 90, 180)


def test_ranks_equal_those_worked_out_by_hand():
    counts = ranking.count(PROBES, MATES, DISTRACTORS)
    # Nearer to 0° than 30° are three, and two as near; to 90° none is nearer than 90°, one as near; 180° is farther
    # from 0° than 179°, all others are nearer.
    assert counts.above.tolist() == [3, 0, 7] and counts.equal.tolist() == [2, 1, 0]
    assert counts.ranks().tolist() == [5.0, 1.5, 8.0]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_blocks_add_up_to_the_whole_gallery(size):
    blocks = [ranking.count(PROBES, MATES, DISTRACTORS[i : i + size]) for i in range(0, len(DISTRACTORS), size)]
    whole = sum(blocks[1:], blocks[0])
    assert whole.ranks().tolist() == [5.0, 1.5, 8.0]


def test_a_face_is_as_similar_as_itself_whatever_its_last_digits():
    rng = np.random.default_rng(0)
    probes, mates = rng.normal(size=(2, 20, 128)).astype(np.float32)
    again = mates * rng.choice([1 - 1e-7, 1 + 1e-7], mates.shape).astype(np.float32)
    counts = ranking.count(probes, mates, again)
    assert counts.equal.tolist() == [1] * 20


def test_features_that_are_no_numbers_have_no_rank():
    for broken in (np.nan, np.inf):
        features = DISTRACTORS.copy()
        features[2, 1] = broken
        with pytest.raises(ValueError, match="finite"):
            ranking.count(PROBES, MATES, features)
        with pytest.raises(ValueError, match="finite"):
            ranking.count(features[:3], MATES, DISTRACTORS)


def test_among_each_other_the_distractors_are_other_persons(monkeypatch):
    probes, mates = at_degrees(0, 0, 90, 180), at_degrees(40, 10, 30, 20)
    # Of the first two, whose person is the same, 10° and 40° are no distractors of each other: 30° and 20° are.
    persons = np.array([5, 5, 6, 7])
    for at_once in (1, 3, 256):
        monkeypatch.setattr(ranking, "PROBES_AT_ONCE", at_once)
        counts = ranking.among_each_other(probes, mates, persons)
        assert counts.ranks().tolist() == [3.0, 1.0, 2.0, 3.0]
    brute = [ranking.count(probes[[i]], mates[[i]], mates[persons != persons[i]]).above[0] for i in range(4)]
    assert counts.above.tolist() == brute


def test_the_best_of_parts_are_the_best_of_all():
    rng = np.random.default_rng(1)
    hits = [Hit(round(rng.random(), 1), ("a", i % 3, i), b"") for i in range(40)]
    whole = ranking.best(hits)
    assert whole == sorted(hits, key=lambda hit: (-hit.cosine, hit.place))[:3]
    for parts in (2, 7):
        assert ranking.best([hit for i in range(parts) for hit in ranking.best(hits[i::parts])]) == whole
    # What two orders of summation make of one cosine does not decide.
    near = [Hit(0.3 + 1e-16, ("b", 0, 0), b""), Hit(0.3, ("a", 0, 0), b"")]
    assert [hit.place[0] for hit in ranking.best(near)] == ["a", "b"]


# Pairs


def test_pairs_are_two_photos_of_one_person():
    identities = ["a", "b", None, "a", "c", "c", "c", None, "b", "d"]
    for seed in range(5):
        drawn = ranking.pairs(identities, seed)
        assert [identities[probe] for probe, _ in drawn] == ["a", "b", "c"]
        assert all(identities[probe] == identities[mate] and probe != mate for probe, mate in drawn)
        assert drawn == ranking.pairs(identities, seed)
    assert len({tuple(ranking.pairs(identities, seed)) for seed in range(20)}) > 5


def test_no_two_photos_make_a_pair_twice():
    identities = [1, 2, 1, 2, 1, 3]
    drawn = ranking.pairs(identities, 0, per_person=5)
    assert sorted(tuple(sorted(pair)) for pair in drawn) == [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert len(ranking.pairs(identities, 0, per_person=2)) == 3


def test_strangers_are_other_persons_each_once():
    persons = np.repeat(np.arange(30), 2)
    others = ranking.strangers(persons, 4)
    assert (persons[others] != persons).all() and sorted(others) == list(range(60))
    uneven = np.array([0, 1, 1, 1, 1, 2])
    assert (uneven[ranking.strangers(uneven, 0)] != uneven).all()
    with pytest.raises(ValueError, match="strangers"):
        ranking.strangers(np.zeros(3))


# Measures


def test_the_summary_has_table_4s_measures():
    measures = ranking.summary(np.array([1, 1, 1.5, 5, 5.5, 40]), 100, np.arange(6))
    assert (measures["probes"], measures["persons"], measures["gallery"]) == (6, 6, 100)
    assert measures["median_rank"] == 3.25 and measures["mean_rank"] == 9.0
    assert measures["rank_1"] == round(2 / 6, 4) and measures["rank_5"] == round(4 / 6, 4)
    for name in ("median_rank", "mean_rank", "rank_1", "rank_5"):
        low, high = measures[f"{name}_interval"]
        assert low < measures[name] < high
    assert measures["rank_1_interval"][0] >= 0 and measures["rank_5_interval"][1] <= 1


@pytest.mark.parametrize(("hits", "number"), [(0, 12), (5, 40), (40, 40)])
def test_rates_have_wilsons_interval(hits, number):
    expected = stats.binomtest(hits, number).proportion_ci(method="wilson")
    assert ranking.wilson(hits / number, number) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_means_have_the_bootstraps_interval():
    ranks = np.random.default_rng(3).geometric(0.05, 200).astype(float)
    expected = stats.bootstrap((ranks,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    measures = ranking.summary(ranks, 1000, np.arange(200))
    assert measures["mean_rank_interval"] == pytest.approx([expected.low, expected.high], rel=0.03)


def test_more_pairs_of_a_person_that_tell_the_same_narrow_no_interval():
    ranks, persons = np.array([1.0, 3, 8, 20]), np.arange(4)
    once, often = ranking.summary(ranks, 50, persons), ranking.summary(np.repeat(ranks, 6), 50, persons.repeat(6))
    assert often == once | {"probes": 24}
    # … nor does the order in which they come matter.
    mixed = np.random.default_rng(0).permutation(24)
    assert ranking.summary(np.repeat(ranks, 6)[mixed], 50, persons.repeat(6)[mixed]) == often


def test_the_match_curve_and_chance():
    shares = ranking.match_curve(np.array([4, 1, 1.5, 1]), np.array([1, 2, 3, 4]))
    assert shares.tolist() == [0.5, 0.75, 0.75, 1.0]
    assert ranking.by_chance(100_001) == {
        "gallery": 100_001,
        "median_rank": 50_001,
        "mean_rank": 50_001,
        "rank_1": 1 / 100_001,
        "rank_5": 5 / 100_001,
    }


# On files


def faces(count: int, seed: int) -> list[bytes]:
    """Faces of two sizes, each of a few coloured areas."""
    rng, images = np.random.default_rng(seed), []
    for i in range(count):
        pixels = rng.integers(0, 256, (5, 5, 3), np.uint8)
        images.append(encode(Image.fromarray(pixels).resize((20 + 12 * (i % 2),) * 2, Image.Resampling.BICUBIC)))
    return images


IDENTITIES = ["ann", "bob", "cem", "ann", "dev", "bob", "eva", "cem", "ann", "fay", "eva", None, "gus", "gus"]
SEED = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A DTN, a judge, photos of persons, and a gallery in which one photo is a mate and two are the same."""
    folder = tmp_path_factory.mktemp("retrieval")
    write_faces_dtn(folder / "dtn", write_face_network(folder / "f.onnx", seed=1, features=6))
    write_face_network(folder / "judge.onnx", seed=2)
    photos, gallery = faces(len(IDENTITIES), 10), faces(60, 20)
    gallery[17] = photos[ranking.pairs(IDENTITIES, SEED)[0][1]]
    gallery[40] = gallery[3]
    write_faces(folder / "probes/a.parquet", photos[:6], 4, who=IDENTITIES[:6], number=list(range(6)))
    write_faces(folder / "probes/b.parquet", photos[6:], 5, who=IDENTITIES[6:], number=list(range(8)))
    write_faces(folder / "gallery/a.parquet", gallery[:25], 7)
    write_faces(folder / "gallery/b.parquet", gallery[25:45], 20)
    write_faces(folder / "more.parquet", gallery[45:], 3)
    write_faces(folder / "whole.parquet", gallery)
    return folder


def job(given: Path, **changes) -> Retrieval:
    default = Retrieval(
        str(given / "dtn"),
        probes=str(given / "probes"),
        distractors=(str(given / "gallery"), str(given / "more.parquet")),
        judge=str(given / "judge.onnx"),
        identity="who",
        seed=SEED,
        actors=2,
        out=str(given / "out"),
    )
    return replace(default, **changes)


@torch.no_grad()
def expected_ranks(given: Path) -> dict[str, list[float]]:
    """By brute force: one image at a time, all cosines, a sort by hand."""
    trained, judge = load_trained(f"{given}/dtn"), load_imported(f"{given}/judge.onnx")[0]
    photos, gallery = faces(len(IDENTITIES), 10), faces(60, 20)
    drawn = ranking.pairs(IDENTITIES, SEED)
    gallery[17], gallery[40] = photos[drawn[0][1]], gallery[3]

    def see(pixels: np.ndarray) -> np.ndarray:
        features = judge.represent(to_float(pixels[None]))[0].double().numpy()
        return features / np.linalg.norm(features)

    def emoji(content: bytes) -> np.ndarray:
        return to_uint8(trained.dtn.G(to_float(decode_row(content, 24)[None])))[0].numpy()

    x, mates = ([decode_row(photos[pair[i]]) for pair in drawn] for i in (0, 1))
    G_x, G_mates = ([emoji(photos[pair[i]]) for pair in drawn] for i in (0, 1))
    others = ranking.strangers(np.arange(len(drawn)), SEED)

    def rank(probe: np.ndarray, mate: np.ndarray, distractors: list[np.ndarray]) -> float:
        differences = np.array([(see(each) - see(mate)) @ see(probe) for each in distractors])
        assert not ((abs(differences) > 1e-9) & (abs(differences) < 1e-4)).any(), "too near to be sure of"
        return 1 + (differences > 1e-9).sum() + (abs(differences) <= 1e-9).sum() / 2

    faces_seen = [decode_row(content) for content in gallery]
    everyone = range(len(drawn))
    return {
        "emoji": [rank(G_x[i], mates[i], faces_seen) for i in everyone],
        "photo": [rank(x[i], mates[i], faces_seen) for i in everyone],
        "other_emoji": [rank(G_x[others[i]], mates[i], faces_seen) for i in everyone],
        "emoji_to_emoji": [rank(G_x[i], G_mates[i], [*G_mates[:i], *G_mates[i + 1 :]]) for i in everyone],
    }


def test_on_ray_ranks_are_those_of_brute_force(given, ray_cluster, call):
    line = (
        f"evaluate retrieval {given}/dtn --probes {given}/probes --distractors {given}/gallery {given}/more.parquet "
        f"--judge {given}/judge.onnx --identity who --seed {SEED} --actors 2 --out {given}/scores"
    )
    code, out, _ = call(line)
    assert code == 0
    values = json.loads((given / "scores/retrieval.json").read_text())
    ranks = values.pop("ranks")
    expected = expected_ranks(given)
    assert ranks == expected
    assert ranks["emoji"][0] % 1 == ranks["photo"][0] % 1 == 0.5, "the mate is a distractor too"
    assert len({*ranks["emoji"]}) > 3 and ranks["emoji"] != ranks["other_emoji"]
    # Measures, and where they come from.
    assert values["gallery"] == 61 and values["emoji"]["gallery"] == 61 and values["emoji_to_emoji"]["gallery"] == 5
    assert values["emoji"] == ranking.summary(np.array(expected["emoji"]), 61, np.arange(5), SEED)
    assert values["judge"]["name"] == "judge.onnx" and len(values["judge"]["sha256"]) == 64
    assert values["seed"] == SEED and values["checkpoint"] == f"{given}/dtn" and values["actors"] == 2
    # What is printed: the table, then the values.
    table, _, printed = out.partition("\n{\n")
    assert json.loads("{" + printed) == values | {"figure": f"{given}/scores/retrieval.png"}
    assert re.search(r"emoji → photo +[\d.]+ \[.*%.*\] +61\n", table) and "16.0" in table and "22.88%" in table
    assert np.asarray(Image.open(given / "scores/retrieval.png").convert("L")).std() > 10


@pytest.mark.slow
def test_neither_blocks_nor_actors_nor_the_layout_of_files_matter(given, ray_cluster, monkeypatch):
    shown = []
    monkeypatch.setattr(retrieval, "retrieval_figure", lambda curves, rows: shown.append(rows) or figure())
    monkeypatch.setattr(examining, "FACES_PER_BLOCK", 4)
    monkeypatch.setattr(retrieval, "PAIRS_AT_ONCE", 3)
    retrieval.retrieve(job(given, distractors=(f"{given}/whole.parquet",), actors=1, out=f"{given}/one"))
    record = json.loads((given / "one/retrieval.json").read_text())
    assert record["ranks"] == expected_ranks(given)
    # The faces found are those whose cosines are largest, the mate among them.
    judge = load_imported(f"{given}/judge.onnx")[0].requires_grad_(False)
    gallery = [decode_row(content) for content in stream_images(given / "whole.parquet")]

    def see(pixels: np.ndarray) -> np.ndarray:
        return ranking.unit(judge.represent(to_float(pixels[None])).numpy())[0]

    (rows,) = shown
    assert len(rows) == 5
    for row in rows:
        candidates = [*gallery, np.asarray(row.mate).transpose(2, 0, 1)]
        probe = see(np.asarray(row.G_x).transpose(2, 0, 1))
        cosines = np.array([probe @ see(each) for each in candidates])
        found = [probe @ see(np.asarray(picture).transpose(2, 0, 1)) for picture, _ in row.top]
        np.testing.assert_allclose(found, np.sort(cosines)[::-1][:3], atol=1e-6)
        assert any(is_mate for _, is_mate in row.top) == (row.rank < 3.75)


def figure():
    from matplotlib import pyplot as plt

    return plt.figure()


def stream_images(path: Path) -> list[bytes]:
    return [content for group in find_groups(str(path)) for some in examining.read(group) for content in some]


@pytest.mark.slow
def test_a_damaged_row_ends_the_run_and_names_its_file(given, ray_cluster, tmp_path):
    whole = faces(9, 1)
    path = write_faces(tmp_path / "broken.parquet", [*whole, whole[0][:90]], 4)
    with pytest.raises(UserError, match=r"broken\.parquet: a row that is not an image"):
        retrieval.retrieve(job(given, distractors=(f"{given}/gallery", path), actors=1, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_blocks_cover_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(examining, "FACES_PER_BLOCK", 3)
    monkeypatch.setattr(examining, "FACES_AT_ONCE", 2)
    images = [f"{i}".encode() for i in range(60)]
    path = write_faces(tmp_path / "a.parquet", images, 40)
    blocks = examining.split(find_groups(path))
    assert [block.rows for block in blocks] == [5] * 8 + [3] * 6 + [2]
    parts = [part for block in blocks for part in examining.read(block)]
    assert [image for part in parts for image in part] == images and max(map(len, parts)) <= 2


@pytest.fixture
def examiner(given):
    return examining.Examiner(load_imported(f"{given}/judge.onnx")[0], load_trained(f"{given}/dtn").dtn, 24, gpu=False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"", "not an image"),
        (None, "not an image"),
        (b"hello", "not an image"),
        (encode(Image.new("RGB", (40, 40)))[:60], "not an image"),
        (encode(Image.new("RGB", (40, 30))), "40×30 pixels; aligned faces are square"),
    ],
)
def test_a_row_that_is_no_face_is_refused(examiner, tmp_path, row, message):
    path = write_faces(tmp_path / "a.parquet", [*faces(2, 0), row])
    sought = examining.Sought({"emoji": (np.ones((1, 16)), np.ones((1, 16)))}, np.ones((1, 16)))
    with pytest.raises(UserError, match=rf"a\.parquet: .*{message}"):
        examiner.compare(Group(path, 0, 3), sought)


def test_a_file_that_shrank_is_told(examiner, tmp_path):
    path = write_faces(tmp_path / "a.parquet", faces(3, 0))
    sought = examining.Sought({"emoji": (np.ones((1, 16)), np.ones((1, 16)))}, np.ones((1, 16)))
    assert examiner.compare(Group(path, 0, 3), sought).faces == 3
    with pytest.raises(UserError, match="changed while it was read"):
        examiner.compare(Group(path, 0, 4), sought)


def test_a_judge_without_finite_features_is_refused(examiner, tmp_path):
    weight = np.full((4, 3, 8, 8), 3e36, np.float32)  # finite for noise, which a network is tried on, but not for white
    judge = load_imported(write_face_network(tmp_path / "inf.onnx", 0, weight=weight))[0]
    path = write_faces(tmp_path / "a.parquet", [encode(Image.new("RGB", (20, 20), "white"))])
    sought = examining.Sought({"emoji": (np.ones((1, 4)), np.ones((1, 4)))}, np.ones((1, 4)))
    with pytest.raises(UserError, match=r"--judge: .*values that are not finite"):
        examining.Examiner(judge, examiner.dtn, 24, gpu=False).compare(Group(path, 0, 1), sought)


def test_a_deepface_may_judge(examiner, tmp_path):
    torch.manual_seed(0)
    config = FacePretraining("", width=0.06, features=8)
    checkpoint.save(tmp_path, "face_network", config, {"face_network": build_deepface(config, 5)}, people=5)
    judge, _ = load_face_network(str(tmp_path), "--judge")
    images = [decode_row(content) for content in faces(3, 5)]
    found = examining.Examiner(judge, examiner.dtn, 24, gpu=False)._features(images)
    with torch.no_grad():
        expected = np.concatenate([judge.represent(to_float(image[None])).numpy() for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std(0).min() > 0


def test_a_g_that_diverged_is_told(examiner):
    photos = [examining.Photo("a.parquet", content) for content in faces(2, 0)]
    assert len(examiner.see(photos, photos).emoji) == 2
    with torch.no_grad():
        next(examiner.dtn.g.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="training diverged"):
        examiner.see(photos, photos)


def test_a_faces_features_do_not_depend_on_those_it_comes_with(examiner):
    images = [decode_row(content) for content in faces(19, 5)]
    together = examiner._features(images)
    for i in (0, 7, 8, 18):
        np.testing.assert_array_equal(examiner._features(images[i:])[0], together[i])


# Command lines


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["runs/a"], "Digits"),
        (["runs/a", "--weights", "g"], "Digits"),
        (["--out", "x", "runs/a"], "Digits"),
        (["digits", "runs/a"], "Digits"),
        (["./retrieval"], "Digits"),
        (["retrieval", "runs/a", "--probes", "p", "--distractors", "d", "e", "--judge", "j"], "Retrieval"),
    ],
)
def test_the_first_argument_tells_what_is_evaluated(load_job, arguments, kind):
    parsed = load_job("evaluate").parse(arguments)
    assert type(parsed).__name__ == kind
    if kind == "Retrieval":
        assert parsed == Retrieval("runs/a", "p", ("d", "e"), "j")


@pytest.fixture
def load_job(request):
    return request.getfixturevalue("job")


RUN = "evaluate retrieval {given}/dtn --probes {given}/probes --identity who --judge {given}/judge.onnx "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RUN + "--distractors {given}/none", r"none: no Parquet files there"),
        (RUN + "--distractors {given}/gone.parquet", r"gone\.parquet: not a readable Parquet file"),
        (RUN + "--distractors {given}/empty.parquet", r"empty\.parquet: its Parquet files have no rows"),
        (RUN + "--distractors {given}/texts.parquet", r"texts\.parquet: no column `image`; it has text"),
        (RUN + "--distractors", r"--distractors: name"),
        (RUN + "--distractors {given}/gallery {given}/gallery", "the same file twice"),
        (RUN + "--distractors {given}/gallery --identity face", r"a\.parquet: no column `face`; .*who.*--identity"),
        (RUN + "--distractors {given}/gallery --identity number", r"1 person|0 person|two are needed"),
        (RUN + "--distractors {given}/gallery --pairs-per-person 0", "--pairs-per-person 0 must be at least 1"),
        (RUN + "--distractors {given}/gallery --actors 0", "--actors 0 must be at least 1"),
        (RUN + "--distractors {given}/gallery --judge {given}/gone.onnx", r"--judge .*gone\.onnx: no such file"),
        (RUN + "--distractors {given}/gallery --judge {given}/dtn", r"dtn: .*kind 'dtn'.*pretrain\.py faces"),
        (RUN + "--distractors {given}/gallery --judge {given}/probes", r"--judge .*: neither a face network as ONNX"),
        (RUN + "--distractors {given}/gallery --judge {given}/blind.onnx", r"blind\.json: missing; it must describe"),
        (RUN + "--distractors {given}/gallery --judge {given}/f.onnx", "--judge .* own f .*too good.*another"),
        (RUN + "--distractors {given}/gallery --judge {given}/f-again.onnx", "--judge .* own f .*too good"),
        (RUN.replace("{given}/dtn", "{made}/dtn") + "--distractors {given}/gallery", "DTN of digits"),
        (RUN.replace("{given}/dtn", "{given}/no") + "--distractors {given}/gallery", "no checkpoint here"),
    ],
)
def test_bad_input_is_refused_before_ray_starts(call, given, made, line, message):
    if not (given / "texts.parquet").exists():
        write_faces(given / "empty.parquet", [])
        write_table(given / "texts.parquet")
        blind = onnx.load(given / "judge.onnx")
        onnx.save(blind, given / "blind.onnx")
        again = onnx.load(given / "f.onnx")
        again.producer_name = "someone"  # other bytes, the same weights
        onnx.save(again, given / "f-again.onnx")
        (given / "f-again.json").write_text((given / "f.json").read_text())
        blind.producer_name = "someone"
        onnx.save(blind, given / "blind.onnx")
    line = line.format(given=given, made=made)
    if "--identity number" in line:
        line = line.replace(f"{given}/probes", f"{given}/probes/a.parquet")
    code, out, err = call(line + f" --out {given}/refused")
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (given / "refused").exists()


def write_table(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), path)


def test_counts_of_nothing_are_the_best_rank():
    assert Counts(np.zeros(2, int), np.zeros(2, int)).ranks().tolist() == [1, 1]
