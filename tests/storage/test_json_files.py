"""JSON files are read within bounds, and told by file and field where they are not what they should be."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.perceptual.options import FacePretraining
from dtn_ray.settings import check, fit, to_dict
from dtn_ray.storage import json_files
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.train.options import Experiment, ModelConfig
from dtn_ray.train.prepare import experiment_of


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    sides: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    inner: Inner = Inner()


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON: empty"),
    "blank": (b" \n\n", "not JSON: empty"),
    "HTML": (b"\n<!DOCTYPE html><html>404</html>", "not JSON: HTML or XML"),
    "cut": (b'{"name": "x"', "not JSON: Expecting"),
    "two": (b"{} {}", "not JSON: Extra data"),
    "Latin-1": ('{"name": "ä"}'.encode("latin-1"), "not JSON: not text in UTF-8"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not JSON: not text"),
    "half a character": (rb'{"name": "\ud800"}', "not JSON: not text"),
    "deep": (b"[" * 100_000, "nested more than 32 deep"),
    "deep objects": (b'{"a":' * 900 + b"1" + b"}" * 900, "nested more than 32 deep"),
    "a little deep": (b"[" * 33 + b"]" * 33, "nested more than 32 deep"),
    "twice": (b'{"name": "a", "name": "b"}', "name: appears twice"),
    "digits": (b'{"count": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    "list": (b"[]", "Input should be an object"),
    "null": (b"null", "Input should be an object"),
    "missing": (b"{}", "name: Field required"),
    "unknown": (b'{"name": "x", "Count": 1}', "Count: no such setting; the settings are name, count, inner"),
    "unknown inside": (b'{"name": "x", "inner": {"shares": 1}}', "inner.shares: no such setting"),
    "control characters": (rb'{"name": "x", "\u001b[2J": 1}', r"\\x1b\[2J: no such setting"),
    "NaN": (b'{"name": "x", "inner": {"share": NaN}}', "inner.share: nan is not a finite number"),
    "infinite": (b'{"name": "x", "inner": {"share": 1e999}}', "inner.share: inf is not a finite number"),
    "out of bounds": (b'{"name": "x", "inner": {"share": 1.5}}', "inner.share: .* less than or equal to 1"),
    "text": (b'{"name": "x", "count": "3"}', "count: .*valid integer"),
    "true": (b'{"name": "x", "count": true}', "count: .*valid integer"),
    "number": (b'{"name": 3}', "name: .*valid string"),
    "short": (b'{"name": "x", "inner": {"sides": [1]}}', "inner.sides.1: Field required"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_with_a_file_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    content, problem = DAMAGE[kind]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: {problem}") as caught:
        json_files.read(str(path), Outer)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes('{"name": "ä", "inner": {"share": 1, "sides": [3, 4]}}'.encode(encoding))
    assert json_files.read(str(path), Outer) == Outer("ä", inner=Inner(1.0, (3, 4)))


def test_files_that_are_absent_folders_or_too_large_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}/gone.json: no such file"):
        json_files.read(f"{tmp_path}/gone.json")
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be read: .*directory"):
        json_files.read(str(tmp_path))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"large: not read: 1,099,511,627,776 bytes"):
        json_files.read(f"{tmp_path}/large")


def test_a_file_on_S3_is_named_by_its_uri(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/a/file.json", b"<html>")
    with pytest.raises(UserError, match=f"^{bucket}/a/file.json: not JSON: HTML"):
        json_files.read(f"{bucket}/a/file.json", Outer)


def test_many_problems_are_told_in_a_short_message() -> None:
    with pytest.raises(UserError, match=r"; and 9997 more$") as caught:
        fit(tuple[int, ...], ["x" * 10_000] * 10_001)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500


BOUNDS = {
    "width_g": [0, -1, 50, 20],
    "width_D": [0, 1e9],
    "width_f": [-0.5, 9],
    "size_D": [63, 0, 30_000],
    "exaggeration": [0, -2, 1e9],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BOUNDS.items() for value in values])
def test_numbers_of_a_network_have_bounds(name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps(to_dict(Experiment()) | {"model": {name: value}}))
    with pytest.raises(UserError, match=rf"^{path}: not a valid Experiment: model\.{name}: Input should be"):
        experiment_of(str(path))
    with pytest.raises(UserError, match=rf"^not a valid Experiment: model\.{name}: Input should be"):
        check(Experiment(model=ModelConfig(**{name: value})))


@pytest.mark.parametrize(
    "config",
    [
        FacePretraining("faces", features=0),
        FacePretraining("faces", features=1 << 20),
        FacePretraining("faces", dropout=1.5),
        FacePretraining("faces", width=float("nan")),
        FacePretraining("faces", lr=float("inf")),
        FacePretraining("faces", seed=-1),
        SuperResolution("images", factors=()),
        SuperResolution("images", factors=(2, 5)),
    ],
    ids=str,
)
def test_settings_of_a_command_line_have_the_same_bounds(config: object) -> None:
    with pytest.raises(UserError, match=r"^not a valid "):
        check(config)
