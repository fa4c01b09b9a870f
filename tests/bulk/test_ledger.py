"""The ledger of conversions, in folders and buckets: what it holds after appends, compactions and crashes."""

import io
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtn_ray import storage
from dtn_ray.bulk.ledger import SCHEMA, Ledger, read_range
from dtn_ray.errors import UserError


@pytest.fixture(params=["folder", "bucket", "ceph_bucket", "swift_bucket"])
def uri(request, tmp_path) -> str:
    return str(tmp_path / "ledger") if request.param == "folder" else f"{request.getfixturevalue(request.param)}/ledger"


def rows(*keys: str, status: str = "converted", attempts: int = 1, model: str = "m") -> pa.Table:
    given = {"version": "v1", "size": 3, "status": status, "model": model, "attempts": attempts}
    return pa.Table.from_pylist([{"key": key} | given for key in keys], schema=SCHEMA).drop_columns("time")


def content(ledger: Ledger) -> dict[str, tuple[str, int]]:
    found = ledger.read().to_pylist()
    read = {row["key"]: (row["status"], row["attempts"]) for row in found}
    assert len(read) == len(found)
    return read


def test_a_ledger_that_is_not_there_is_empty(uri):
    Ledger(uri).compact()
    assert len(Ledger(uri).read()) == 0


def test_the_newest_row_of_a_key_and_model_holds(uri):
    ledger = Ledger(uri)
    ledger.append(rows("a", "b", status="failed"))
    ledger.append(rows("a", attempts=2))
    ledger.append(rows("b", status="converted"))  # the same try again: a batch that was repeated
    expected = {"a": ("converted", 2), "b": ("converted", 1)}
    assert content(ledger) == expected
    assert len(storage.list_keys(uri)) == 3
    before = ledger.read()
    ledger.compact()
    assert ledger.read().equals(before) and content(ledger) == expected
    assert len(storage.list_keys(uri)) == 1


def test_more_attempts_are_newer_whatever_the_clocks_say(tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path))
    ledger.append(rows("a", attempts=2))
    monkeypatch.setattr("time.time", lambda: 4e9)
    ledger.append(rows("a", attempts=1, status="failed"))
    assert content(ledger) == {"a": ("converted", 2)}


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_a_compaction_that_was_cut_short_changes_nothing(tmp_path, monkeypatch, deleted):
    ledger = Ledger(str(tmp_path))
    for i in range(3):
        ledger.append(rows("a", f"b{i}", attempts=i + 1))
    before = content(ledger)
    delete, left = storage.delete, iter(range(deleted))

    def crash(uri: str, root: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        delete(uri, root)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", crash)
        with pytest.raises(KeyboardInterrupt):
            ledger.compact()
    assert content(ledger) == before
    ledger.compact()
    assert len(before) == 4 and content(ledger) == before and len(list(tmp_path.iterdir())) == 1


def test_large_sets_are_split_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_ray.bulk.ledger.ROWS_PER_SET", 10)
    monkeypatch.setattr("dtn_ray.bulk.ledger.ROWS_PER_GROUP", 2)
    ledger = Ledger(str(tmp_path))
    for i in range(2):
        ledger.append(rows(*(f"{j:02}-{i}" for j in range(12))))
    before = content(ledger)
    ledger.compact()
    assert len(list(tmp_path.iterdir())) == 3 and content(ledger) == before
    parts = sorted(ledger.parts(), key=lambda part: part.low)
    assert all(one.high < two.low for one, two in pairwise(parts)), "sets lie apart"
    for low, high in (("", None), ("03-1", "07-0"), ("05", "05~"), ("x", None), ("00-0", "00-0")):
        inside = [key for key in before if key >= low and (high is None or key <= high)]
        assert read_range(parts, low, high)["key"].to_pylist() == sorted(inside)
    ledger.append(rows("11-1", "99", attempts=2))
    untouched = {part.uri for part in parts[:1]}
    ledger.compact()
    assert content(ledger) == before | {"11-1": ("converted", 2), "99": ("converted", 2)}
    assert untouched < {part.uri for part in ledger.parts()}, "sets that no new row falls into stay"


def test_a_part_that_was_being_written_is_not_read(tmp_path):
    Ledger(str(tmp_path)).append(rows("a"))
    (tmp_path / "part-x.parquet.77.partial").write_bytes(b"PAR1")
    assert len(content(Ledger(str(tmp_path)))) == 1


def test_a_ledger_of_a_newer_version_is_refused(tmp_path):
    buffer = io.BytesIO()
    pq.write_table(SCHEMA.empty_table().replace_schema_metadata({"ledger_format": "3"}), buffer)
    (tmp_path / "part-1.parquet").write_bytes(buffer.getvalue())
    with pytest.raises(
        UserError, match=r"part-1\.parquet: the ledger has format 3, .* formats up to 2: update dtn-ray"
    ):
        Ledger(str(tmp_path)).read()


def with_faces(*keys: str) -> pa.Table:
    """Rows of a job that has a column of its own, as `rows` makes them."""
    own = pa.list_(pa.struct({"output": pa.string(), "box": pa.list_(pa.float32())}))
    column = pa.array([[{"output": key, "box": [1]}] for key in keys], own)
    return rows(*keys).append_column("faces", column)


def test_a_ledger_of_an_older_version_goes_on(tmp_path):
    """Format 1 had no column faces, and format 2 none of storage classes at first."""
    now = pa.array([7], pa.timestamp("us", "UTC"))
    old = rows("a").append_column("time", now).select([name for name in SCHEMA.names if name != "storage_class"])
    pq.write_table(old.replace_schema_metadata({"ledger_format": "1"}), tmp_path / "part-1.parquet")
    ledger = Ledger(str(tmp_path))
    ledger.append(with_faces("b"))
    assert content(ledger) == {"a": ("converted", 1), "b": ("converted", 1)}
    ledger.compact()
    assert content(ledger) == {"a": ("converted", 1), "b": ("converted", 1)}
    assert ledger.read()["faces"].to_pylist() == [None, [{"output": "b", "box": [1.0]}]]
    assert ledger.read()["storage_class"].to_pylist() == [None, None]


def test_a_job_s_own_columns_keep_their_place_in_the_files(tmp_path):
    """Other programs read them, some by position: before the columns that were added to all ledgers later."""
    Ledger(str(tmp_path)).append(with_faces("a"))
    (part,) = tmp_path.iterdir()
    assert pq.read_schema(part).names[-3:] == ["time", "faces", "storage_class"]


def test_parts_whose_own_columns_differ_in_type_are_an_error_that_says_so(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.append(with_faces("a"))
    ledger.append(rows("b").append_column("faces", pa.array([3])))
    with pytest.raises(UserError, match=f"{tmp_path}: files of this ledger .* different types .*Choose another OUT"):
        ledger.read()


def test_own_columns_of_structs_may_grow(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.append(with_faces("a"))
    more = pa.list_(pa.struct({"output": pa.string(), "box": pa.list_(pa.float32()), "blur": pa.float32()}))
    ledger.append(rows("b").append_column("faces", pa.array([[{"output": "b", "box": [2], "blur": 0.5}]], more)))
    ledger.compact()
    assert ledger.read()["faces"].to_pylist() == [
        [{"output": "a", "box": [1.0], "blur": None}],
        [{"output": "b", "box": [2.0], "blur": 0.5}],
    ]


@pytest.mark.parametrize("damage", [b"", b"PAR1 cut", None])
def test_a_damaged_part_is_named(tmp_path, damage):
    if damage is None:  # another program's Parquet
        pq.write_table(pa.table({"key": ["a"]}), tmp_path / "part-1.parquet")
    else:
        (tmp_path / "part-1.parquet").write_bytes(damage)
    with pytest.raises(UserError, match=r"part-1\.parquet: .*cannot be read .* delete it"):
        Ledger(str(tmp_path)).read()
