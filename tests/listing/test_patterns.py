"""Regular expressions of users: linear in time, whoever chose the keys."""

import pickle
import time

import pyarrow as pa
import pytest
from files import encode
from PIL import Image

from dtn_ray.bulk.plan import Filters
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.people import who
from dtn_ray.errors import UserError
from dtn_ray.ingest.options import Ingestion
from dtn_ray.ingest.pipeline import identity
from dtn_ray.listing.patterns import GROUPS, LONGEST, Pattern


def found(pattern: str, *keys: str) -> list[bool]:
    return Pattern("--match", pattern).found_in(pa.chunked_array([list(keys)])).to_pylist()


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", r"(.*)*x", r"([a-z]+)*\d", "^(a?){60}a{60}$"])
def test_patterns_that_backtrack_for_ever_elsewhere_end_at_once(pattern):
    keys = ["a" * 60 + "!.png", "a" * 1000 + "!"]
    began = time.monotonic()
    found(pattern, *keys)
    for key in keys:
        Pattern("--person", pattern).person(key)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("pattern", "key", "person"),
    [
        (r"^([^/]+)/", "anna/1.jpg", "anna"),
        (r"\d{4}", "anna/2024.jpg", "2024"),
        (r"(?P<who>[^/]+)/(?P<n>\d+)", "ünï/7.jpg", "ünï"),
        (r"(?i)ANNA", "photos/anna.jpg", "anna"),
        (r"(a)|b", "b.jpg", None),
        ("x", "anna.jpg", None),
        (r"([^/]+)/", "\uef83\uef65/1.jpg", "\uef83\uef65"),  # a name in another encoding, as its key writes it
        (r"(.)/", "\udc83/1.jpg", "\udc83"),
        (r"^(\p{L}+)", "Ωμέγα-1.jpg", "Ωμέγα"),
        ("(\n)", "a\nb", "\n"),
    ],
)
def test_who_is_in_a_photo(pattern, key, person):
    assert pickle.loads(pickle.dumps(Pattern("--person", pattern))).person(key) == person


def test_what_is_found_in_keys():
    assert found(r"(?i)\.JPE?G$", "a.jpg", "b.jpeg", "c.png") == [True, True, False]
    assert found("\udc83", "\uef83.png", "x.png") == [True, False]  # a pattern of a shell in that encoding
    assert found("^é.$", "éé", "é") == [True, False]
    assert Pattern("--match", "x").found_in(pa.chunked_array([], pa.string())).to_pylist() == []


LONG = ["x" * 20_000, "(a)" * (GROUPS + 1), r"\p{L}{1000}"]
UNKNOWN = ["[", "*", "(?=a)", "(?<!a)b", r"(a)\1", "a{1001}", "(a{1000}){1000}", "a++", "(?>a)", "(?x) a", r"a\Z"]


@pytest.mark.parametrize("pattern", [*UNKNOWN, *LONG])
def test_what_the_engine_has_not_is_one_line_that_names_the_option(pattern):
    jobs = {
        "--match": lambda: Filters.of(Conversion("c", "in", "out", match=pattern)),
        "--person": lambda: who(Conversion("c", "in", "out", person=pattern)),
        "--identity": lambda: identity(Ingestion("in", "out", identity=pattern)),
    }
    for option, check in jobs.items():
        with pytest.raises(UserError) as refused:
            check()
        assert str(refused.value).startswith(option) and "\n" not in str(refused.value)
        assert len(str(refused.value)) < 1000 < LONGEST


def test_a_conversion_filters_by_such_a_pattern(made, tmp_path, call):
    (tmp_path / "in").mkdir()
    for name in ("a" * 60 + "!.png", "a" * 60):
        (tmp_path / "in" / name).write_bytes(encode(Image.new("RGB", (32, 32))))
    code, stdout, stderr = call(
        f"convert {made}/dtn {tmp_path}/in {tmp_path}/out --match '(a+)+$' --suffixes '' --dry-run"
    )
    assert code == 0 and '"to_convert": 1' in stdout, stderr
    code, _, stderr = call(f"convert {made}/dtn {tmp_path}/in {tmp_path}/out --match '(?=a)'")
    assert code == 2 and stderr.startswith("error: --match (?=a): not a regular expression")
