"""What a bulk job leaves to look at: a contact sheet and a page of HTML that needs nothing beside it."""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import Row, source_uri
from dtn_ray.bulk.shards import read_image
from dtn_ray.bulk.tally import EDGES, Tally
from dtn_ray.failures import cause_named
from dtn_ray.images.repair import Truncated, completed
from dtn_ray.listing import left_out
from dtn_ray.text.display import line

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ summary.source }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } code { overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: flex; height: 1rem; margin: 1rem 0 } .converted { background: #4a9 }
.without { background: #bcb } .failed { background: #d65 }
.remaining { background: #ccc } .pairs { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; width: 9rem; font-size: .75rem; overflow-wrap: anywhere } 
figure img { width: 4.4rem; image-rendering: pixelated }
</style>
<h1>{{ summary.source }} → {{ summary.out }}</h1>
<p>{% if summary.checkpoint %}Model <code>{{ summary.checkpoint }}</code> ({{ summary.model }}), {% endif %}
{{ ended }}, {{ summary.seconds | round(1) }} s
{%- if summary.converted and summary.seconds %}, {{ (summary.converted / summary.seconds) | round(1) }} images/s
{%- endif %}.</p>
<div class="bar">{% for name in parts %}<div class="{{ name }}" style="flex: {{ parts[name] }}"></div>{% endfor %}</div>
<table>
{% for label, value in rows %}<tr><td>{{ label }}</td><td class="number">{{ "{:,}".format(value) }}</td></tr>
{% endfor %}</table>
{% if reasons %}<h2>Failures by reason</h2>
<table><tr><th>images</th><th>cause</th><th>reason</th></tr>
{% for (cause, reason), count in reasons %}<tr><td class="number">{{ "{:,}".format(count) }}</td><td>{{ cause }}</td>
<td>{{ reason }}</td></tr>
{% endfor %}</table>
<table>{% for cause, meaning in causes %}<tr><td><i>{{ cause }}</i></td><td>{{ meaning }}</td></tr>
{% endfor %}</table>
<p>Some of them:</p>
<table>{% for key, reason in failures %}<tr><td><code>{{ key }}</code></td><td>{{ reason }}</td></tr>
{% endfor %}</table>{% endif %}
{% if left_out %}<h2>Left out</h2>
<table><tr><th>entries</th><th>that</th><th>the first of them</th></tr>
{% for reason, found in left_out %}<tr><td class="number">{{ "{:,}".format(found.count) }}</td><td>{{ reason }}</td>
<td>{% for name in found.first %}<code>{{ name }}</code><br>{% endfor %}</td></tr>
{% endfor %}</table>
{% if suffixes %}<p>Most frequent of the other suffixes:
{% for suffix, count in suffixes %}<code>{{ suffix or "none" }}</code> {{ "{:,}".format(count) }}
{%- if not loop.last %}, {% endif %}{% endfor %}.</p>{% endif %}{% endif %}
{% if histogram %}<h2>Identity score ‖f(x) − f(G(x))‖</h2>
<p>How far f sees each image from its source: the lower, the better kept.</p>
<img alt="histogram of the scores" src="{{ histogram }}">{% endif %}
{% if pairs %}<h2>A random sample</h2>
<div class="pairs">{% for key, score, before, after in pairs %}
<figure><img alt="" src="{{ before }}"> <img alt="" src="{{ after }}">
<figcaption>{{ key }}{{ score }}</figcaption></figure>
{% endfor %}</div>{% endif %}
</html>
"""


Pair = tuple[Row, Image.Image, Image.Image]


def pairs(
    job: BulkJob, rows: Sequence[Row], before: Callable[[bytes, Row], Image.Image], shards: str, format: str
) -> list[Pair]:
    """Rows of the ledger as their objects and their outputs show them; those changed or gone since are left out."""

    def pair(row: Row) -> Pair | None:
        try:
            source = _source(before, storage.read_bytes(source_uri(job.source, row["key"])), row)
            output, _, number = row["output"].partition("#") if shards != "none" else (row["output"], "", "")
            uri = storage.join(job.out, output)
            content = read_image(uri, shards, int(number), format) if number else storage.read_bytes(uri)
            after = Image.open(io.BytesIO(content))
            after.load()
        except (OSError, ValueError, TypeError, AttributeError):  # a ledger that others wrote may name no output
            return None
        return row, source, after

    with ThreadPoolExecutor(job.threads) as pool:
        return [found for found in pool.map(pair, rows) if found]


def _source(before: Callable[[bytes, Row], Image.Image], content: bytes, row: Row) -> Image.Image:
    try:
        return before(content, row)
    except Truncated:
        return before(completed(content), row)


def page(summary: dict[str, Any], tally: Tally, shown: Sequence[Pair], ended: str) -> str:
    """The report: counts, failures by reason, a histogram of the scores, sample pairs. All is cleaned and escaped."""
    rows = [
        ("images", summary["images"]),
        ("converted before", summary["done_before"]),
        ("converted by this run", summary["converted"]),
        ("failed", summary["failed"]),
        ("remaining", summary["remaining"]),
        ("left out", sum(each["count"] for each in summary["left_out"].values())),
    ]
    if summary["faces"] or summary["no_face"]:
        rows[3:3] = [("without a face", summary["no_face"]), ("faces", summary["faces"])]
    if summary["in_part"]:
        rows.insert(3, ("of images that are cut short", summary["in_part"]))
    return (
        Environment(autoescape=True, finalize=lambda value: line(value) if type(value) is str else value)
        .from_string(PAGE)
        .render(
            summary=summary,
            ended=ended,
            parts={
                "converted": summary["done_before"] + summary["converted"],
                "without": summary["no_face"],
                "failed": summary["failed"],
                "remaining": summary["remaining"],
            },
            rows=rows,
            reasons=tally.reasons.most_common(30),
            causes=[(name, cause_named(name).meaning) for name, _ in tally.causes.most_common()],
            failures=list(tally.failures.items()),
            left_out=[(left_out.REASONS[reason], found) for reason, found in summary["left_out"].items()],
            suffixes=summary["left_out"].get(left_out.OTHER_SUFFIX, {}).get("suffixes", {}).items(),
            histogram=_histogram(tally.scores),
            pairs=[(row["key"], _told(row["score"]), _inline(before), _inline(after)) for row, before, after in shown],
        )
    )


def _histogram(counts: np.ndarray) -> Markup | None:
    """The middle 99 % of the scores, in about forty bars."""
    from matplotlib.figure import Figure  # seconds to import, and ingestion has no scores

    total = counts.sum()
    if not total:
        return None
    cumulated = np.cumsum(counts) / total
    low, high = np.searchsorted(cumulated, [0.005, 0.995])
    edges = np.concatenate([[EDGES[0]], EDGES, [EDGES[-1]]])
    step = max(1, (high - low + 1) // 40)
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    for i in range(low, high + 1, step):
        stop = min(i + step, high + 1)
        axes.bar(edges[i], counts[i:stop].sum(), edges[stop] - edges[i], align="edge", color="#4a9", edgecolor="white")
    axes.set(xlabel="score", ylabel="images")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _data(buffer)


def _told(score: float | None) -> str:
    return "" if score is None else f" · {score:.3g}"


def _inline(image: Image.Image) -> Markup:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return _data(buffer)


def _data(buffer: io.BytesIO) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
