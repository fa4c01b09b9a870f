"""The report's page: what it shows of many images, what it links to, and that it needs nothing beside it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from files import encode
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.report import page
from dtn_ray.bulk.tally import Tally
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import CONVERSION, Conversion

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: its elements, and the pairs below each heading. Each tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements = list[str](), list[tuple[str, dict[str, str | None]]]()
        self.sections, self.links, self.details = dict[str, list[str]](), dict[str, str](), list[list[str]]()
        self.heading = self.link = ""
        self.feed(text)
        self.close()
        assert not self.open, "each is closed"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "h2":
            self.heading = ""
        if tag == "figure":
            self.link = ""
        if tag == "a":
            self.link = attributes["href"]
        if tag == "details":
            self.details.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.heading += data
            self.sections.setdefault(self.heading, [])
        elif self.open[-1:] == ["figcaption"] and data.strip():
            key = data.partition(" · ")[0]
            self.sections[self.heading].append(key)
            self.links[key] = self.link
        elif self.open[-2:] == ["li", "code"]:
            self.details[-1].append(data)

    @property
    def named(self) -> list[str]:
        """Whatever an attribute makes a browser load or go to."""
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in LOADS]


LOADS = {"src", "href", "srcset", "data", "action", "poster", "style", "background"}
WORST, BEST, RANDOM = "The worst scores", "The best scores", "A random sample"


def put(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        storage.write_bytes(f"{folder}/{name}", encode(Image.fromarray(noise)))


@pytest.fixture(scope="module")
def many(made, tmp_path_factory) -> tuple[dict, Page]:
    """The summary and the page of 40 photos in odd folders and 30 that are none, of which 8 are to be shown."""
    folder = tmp_path_factory.mktemp("many")
    put(folder / "in", *(f"a #?&'\"<b>%/{i:02}.png" for i in range(40)))
    for i in range(30):
        storage.write_bytes(f"{folder}/in/<i>{i:02}.png", b"no image")
    storage.write_bytes(f"{folder}/in/cut.png", encode(Image.effect_noise((40, 40), 60))[:200])
    summary = convert(Conversion(f"{made}/dtn", f"{folder}/in", f"{folder}/out", sheet=8, limit=64))
    summary = convert(Conversion(f"{made}/dtn", f"{folder}/in", f"{folder}/out", sheet=8))
    return summary, Page(Path(summary["report"]).read_text())


def scores(summary: dict) -> list[str]:
    """Keys by their scores, the lowest first."""
    from dtn_ray.bulk.ledger import Ledger

    rows = Ledger(str(Path(summary["out"], "ledger", summary["model"]))).read().to_pylist()
    made = [row for row in rows if row["status"] == "converted"]
    return [row["key"] for row in sorted(made, key=lambda row: (row["score"], row["key"]))]


def test_the_worst_and_the_best_stand_beside_a_random_sample(many):
    summary, shown = many
    order = scores(summary)
    assert len(order) == 40
    assert shown.sections[BEST] == order[:8] and shown.sections[WORST] == order[::-1][:8]
    assert len(shown.sections[RANDOM]) == 8 and shown.sections[RANDOM] == sorted(shown.sections[RANDOM])
    assert set(shown.sections[RANDOM]) not in (set(order[:8]), set(order[-8:]))


def test_each_pair_is_linked_to_its_output_which_lies_beside_the_page(many):
    summary, shown = many
    assert len(shown.links) >= 16
    for key, link in shown.links.items():
        assert re.fullmatch(r"images/[\w%./-]+", link), "nothing that a browser would take for anything but a path"
        output = Path(summary["report"]).parent / unquote(link)
        with Image.open(output) as image:
            assert image.size == (32, 32), key


def test_failures_expand_to_their_keys_with_how_many_more_there_are(many):
    _, shown = many
    (text, cut) = shown.details
    assert len(text) == 20 and all(re.fullmatch(r"<i>\d\d\.png", key) for key in text) and cut == ["cut.png"]
    page = Path(many[0]["report"]).read_text()
    assert page.count("<summary>30 × image: not an image of a known format</summary>") == 1
    assert page.count("and 10 more, which the ledger lists") == 1
    assert "<i>" not in page and "<b>" not in page


def test_the_page_needs_nothing_beside_it_and_fits_a_phone(many):
    _, shown = many
    for value in shown.named:
        assert value.startswith(("data:image/png;base64,", "images/", "flex: ")), value[:80]
    assert not {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "object", "base"}
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in shown.elements


def test_when_all_are_shown_none_is_shown_twice(made, tmp_path):
    put(tmp_path / "in", *(f"{i}.png" for i in range(5)))
    summary = convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out"))
    shown = Page(Path(summary["report"]).read_text())
    (heading,) = (name for name, keys in shown.sections.items() if keys)
    assert heading == "All images, the worst score first" and shown.sections[heading] == scores(summary)[::-1]


def test_a_page_without_a_sheet_shows_no_pictures(made, tmp_path):
    put(tmp_path / "in", "a.png")
    summary = convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", sheet=0))
    assert "<figure>" not in Path(summary["report"]).read_text() and "sheet" not in summary


def test_images_of_shards_are_linked_to_their_shard(made, tmp_path):
    put(tmp_path / "in", "a.png", "b.png")
    summary = convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", shards="parquet"))
    shown = Page(Path(summary["report"]).read_text())
    (link,) = set(shown.links.values())
    assert link.startswith("shards/") and (Path(summary["folder"]) / link).is_file()


def rendered(out: str, output: str, key: str = "a.png", size: int = 32) -> str:
    """The page of a job with one image, whose output the ledger calls so."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    counts = {"images": 1, "done_before": 0, "converted": 1, "no_face": 0, "faces": 0, "failed": 0, "remaining": 0}
    summary = {"source": "IN", "out": out, "model": "m", "seconds": 1.0, "in_part": 0, "left_out": {}, **counts}
    row = {"key": key, "output": output, "score": 0.5}
    return page(CONVERSION, "m", {}, summary, Tally(), {"Pairs": [(row, image, image)]}, "now")


def test_in_a_bucket_outputs_are_named_instead_of_linked():
    text = rendered("s3://bucket/out", "m/images/a.png.png")
    assert "<code>s3://bucket/out/m/images/a.png.png</code>" in text and "<a" not in text


@pytest.mark.parametrize(
    "output",
    [
        *("../secret.png", "/etc/passwd", "javascript:alert(1)", "mm/images/a.png", "m", "https://example.org/a"),
        *("m/images/a\u202egnp.png", "m/images/a\n.png", "m/images/X-Amz-Signature=0123456789abcdef0123456789abcdef"),
    ],
)
def test_nothing_is_linked_that_is_no_output_or_must_not_be_shown(output):
    assert "<a" not in rendered("/out", output)


def test_what_is_odd_in_a_link_stays_a_path():
    assert Page(rendered("/out", "m/images/javascript:\"'<>?#x.png")).links == {
        "a.png": "images/javascript%3A%22%27%3C%3E%3F%23x.png"
    }


def test_large_results_are_made_smaller_in_the_page():
    assert len(rendered("/out", "m/images/a.png", size=3000)) < 1 << 20


def test_dry_runs_write_no_page(made, tmp_path):
    put(tmp_path / "in", "a.png")
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out")
    assert convert(replace(job, dry_run=True))["to_convert"] == 1 and not (tmp_path / "out").exists()
