"""jobs/make_emoji.py: a set on a bucket, drawn on when a file is missing, the same from the same settings."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dtn_ray import storage
from dtn_ray.data.rows import find_groups
from dtn_ray.emoji.job import make_emoji
from dtn_ray.emoji.options import EmojiSet
from dtn_ray.errors import UserError


def test_a_set_is_drawn_and_missing_files_again(bucket, monkeypatch) -> None:
    out = f"{bucket}/emoji"
    monkeypatch.setattr("dtn_ray.emoji.job.EMOJI_PER_FILE", 6)
    made = make_emoji(EmojiSet(out, count=10, size=32))
    assert made["files"] == 2 and "Pablo Stanley" in made["licence"]
    first, second = (storage.read_bytes(f"{out}/part-0000{i}.parquet") for i in range(2))
    storage.delete(f"{out}/part-00001.parquet")
    make_emoji(EmojiSet(out, count=10, size=32))
    assert storage.read_bytes(f"{out}/part-00001.parquet") == second
    table = pq.read_table(io.BytesIO(first))
    assert table["key"].to_pylist() == [f"0-{i}" for i in range(len(table))]
    assert json.loads(table["options"][0].as_py())["mouthVariant"] in ("serious", "twinkle")
    assert Image.open(io.BytesIO(table["image"][0].as_py())).size == (32, 32)
    assert sum(group.rows for group in find_groups(out)) == 10
    assert Image.open(io.BytesIO(storage.read_bytes(made["sheet"]))).size == (12 * 32, 6 * 32)


def test_another_set_is_not_mixed_in(tmp_path, ray_cluster) -> None:
    make_emoji(EmojiSet(str(tmp_path), count=2, size=16))
    with pytest.raises(UserError, match=r"emoji\.json: another set is there \(seed: 0 → 1\)"):
        make_emoji(EmojiSet(str(tmp_path), count=2, size=16, seed=1))
    with pytest.raises(UserError, match="--count"):
        make_emoji(EmojiSet(str(tmp_path), count=0))


def test_a_set_may_be_moved(tmp_path, ray_cluster) -> None:
    make_emoji(EmojiSet(f"{tmp_path}/a", count=2, size=16))
    drawn = (tmp_path / "a/part-00000.parquet").read_bytes()
    (tmp_path / "a").rename(tmp_path / "b")
    record = json.loads((tmp_path / "b/emoji.json").read_text())
    assert "out" not in record
    del record["options"]
    (tmp_path / "b/emoji.json").write_text(json.dumps(record | {"out": "a"}))  # as a former version wrote it
    make_emoji(EmojiSet(f"{tmp_path}/b", count=2, size=16))
    assert (tmp_path / "b/part-00000.parquet").read_bytes() == drawn


def test_options_are_read_from_a_file_and_kept_with_the_set(tmp_path, ray_cluster) -> None:
    path = tmp_path / "options.json"
    path.write_text('{"skinColor": ["#614335"], "topVariant": ["bob"]}')
    made = make_emoji(EmojiSet(f"{tmp_path}/out", count=3, size=16, options=str(path)))
    assert (
        made["options"]
        == json.loads((tmp_path / "out/emoji.json").read_text())["options"]
        == json.loads(path.read_text())
    )
    drawn = pq.read_table(f"{tmp_path}/out/part-00000.parquet")["options"].to_pylist()
    assert all(json.loads(each)["topVariant"] == "bob" for each in drawn)
    path.write_text('{"skinColor": ["#ffdbb4"]}')
    with pytest.raises(UserError, match="another set is there"):
        make_emoji(EmojiSet(f"{tmp_path}/out", count=3, size=16, options=str(path)))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("{", "not JSON"), ("[1]", "must be an object")]
)
def test_an_options_file_that_does_not_serve_is_named(tmp_path, content, message) -> None:
    path = tmp_path / "options.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"--options .*options\.json: {message}"):
        make_emoji(EmojiSet(f"{tmp_path}/out", count=1, options=str(path)))
