"""The contact sheet and the report of a bulk job, a self-contained HTML page."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.kinds import Count, Kind, Status
from dtn_ray.bulk.ledger import Row
from dtn_ray.bulk.options import BulkJob
from dtn_ray.bulk.pipeline import source_uri
from dtn_ray.bulk.shards import read_image
from dtn_ray.bulk.tally import EDGES, Tally
from dtn_ray.failures import cause_named
from dtn_ray.images.repair import Truncated, completed
from dtn_ray.listing import left_out
from dtn_ray.text.display import line

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ summary.source }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; color: #222;
  overflow-wrap: anywhere }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } img { max-width: 100% }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }
th { overflow-wrap: normal } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { display: flex; height: 1rem; margin: 1rem 0 } .made { background: #4a9 } .other { background: #bcb }
.failed { background: #d65 } .remaining { background: #ccc }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem .8rem }
figure { margin: 0; font-size: .75rem; line-height: 1.3; max-width: 18rem }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem; align-items: start }
.pair img { width: 100%; display: block } .pixels { image-rendering: pixelated }
details { border-top: 1px solid #ddd; padding: .3rem 0 } summary { cursor: pointer }
details ul { margin: .3rem 0; padding-left: 1.2rem } dt { font-style: italic } dd { margin: 0 0 .4rem 1.2rem }
@media (max-width: 30rem) { td, th { padding-right: .7rem } }
</style></head><body>
<h1>{{ summary.source }} → {{ summary.out }}</h1>
<p>{% for name, value in facts %}{{ name }} <code>{{ value }}</code>, {% endfor %}model {{ summary.model }},
{{ ended }}, {{ summary.seconds | round(1) }} s
{%- if made and summary.seconds %}, {{ (made / summary.seconds) | round(1) }} images/s
{%- endif %}.</p>
<div class="bar">{% for name, count in parts %}
<div class="{{ name }}" style="flex: {{ count }}"></div>{% endfor %}</div>
<table>
{% for label, value in rows %}<tr><td>{{ label }}</td><td class="number">{{ "{:,}".format(value) }}</td></tr>
{% endfor %}</table>
{% if reasons %}<h2>Failures by reason</h2>
{% for cause, reason, count, examples in reasons %}<details>
<summary>{{ "{:,}".format(count) }} × {{ cause }}: {{ reason }}</summary>
<ul>{% for key, told in examples %}<li><code>{{ key }}</code>{% if told != reason %} {{ told }}{% endif %}</li>
{% endfor %}</ul>
{% if count > examples | length %}<p>and {{ "{:,}".format(count - examples | length) }} more, which the ledger lists</p>
{% endif %}</details>
{% endfor %}
{% if rest %}<p>{{ "{:,}".format(rest) }} failed for further reasons, which the ledger lists.</p>{% endif %}
<dl>{% for cause, meaning in causes %}<dt>{{ cause }}</dt><dd>{{ meaning }}</dd>
{% endfor %}</dl>{% endif %}
{% if left_out %}<h2>Left out</h2>
<table><tr><th>entries</th><th>that</th><th>the first of them</th></tr>
{% for reason, found in left_out %}<tr><td class="number">{{ "{:,}".format(found.count) }}</td><td>{{ reason }}</td>
<td>{% for name in found.first %}<code>{{ name }}</code><br>{% endfor %}</td></tr>
{% endfor %}</table>
{% if suffixes %}<p>Most frequent of the other suffixes:
{% for suffix, count in suffixes %}<code>{{ suffix or "none" }}</code> {{ "{:,}".format(count) }}
{%- if not loop.last %}, {% endif %}{% endfor %}.</p>{% endif %}{% endif %}
{% if histogram %}<h2>{{ score.title }}</h2>
<p>{{ score.meaning }}</p>
<img alt="histogram of the scores" src="{{ histogram }}">{% endif %}
{% for title, shown in sections %}<h2>{{ title }}</h2>
<div class="pairs">
{% for each in shown %}<figure>
{%- if each.link %}<a class="pair" href="{{ each.link }}">{% else %}<div class="pair">{% endif %}
<img alt="source" {{ each.before }}><img alt="result" {{ each.after }}>
{%- if each.link %}</a>{% else %}</div>{% endif %}
<figcaption>{{ each.key }}{{ each.score }}{% if each.place %}<br><code>{{ each.place }}</code>{% endif %}</figcaption>
</figure>
{% endfor %}</div>
{% endfor %}</body></html>
"""


SHOWN = 256  # largest width and height of a picture on the page, in pixels
SMALL = 64  # pictures up to this width are enlarged without smoothing
REASONS = 30
Pair = tuple[Row, Image.Image, Image.Image]


def pairs(
    job: BulkJob, rows: Sequence[Row], before: Callable[[bytes, Row], Image.Image], shards: str, format: str
) -> list[Pair]:
    """Source and output pictures for rows of the ledger; rows whose files have changed or are gone are left out."""

    def pair(row: Row) -> Pair | None:
        try:
            source = _source(before, storage.read_bytes(source_uri(job.source, row["key"])), row)
            output, _, number = row["output"].partition("#") if shards != "none" else (row["output"], "", "")
            uri = storage.join(job.out, output)
            content = read_image(uri, shards, int(number), format) if number else storage.read_bytes(uri)
            after = Image.open(io.BytesIO(content))
            after.load()
        except (OSError, ValueError, TypeError, AttributeError):  # a ledger written by others may lack the output
            return None
        return row, source, after

    with ThreadPoolExecutor(job.threads) as pool:
        return [found for found in pool.map(pair, rows) if found]


def _source(before: Callable[[bytes, Row], Image.Image], content: bytes, row: Row) -> Image.Image:
    try:
        return before(content, row)
    except Truncated:
        return before(completed(content), row)


def chosen(tally: Tally, kind: Kind, sheet: int) -> tuple[list[Row], dict[str, list[Row]]]:
    """The rows to show: on the contact sheet, `sheet` random rows in the order of keys; on the page, rows by heading.

    If the sample does not include all rows, the page also shows the worst and the best scores.
    """
    sample = sorted((row for _, row in tally.sample[:sheet]), key=lambda row: row["key"])
    if len(sample) < tally.statuses[kind.made.name]:
        worst, best = ([row for _, _, row in rows[:sheet]] for rows in (tally.worst, tally.best))
        sections = {"The worst scores": worst, "The best scores": best, "A random sample": sample}
    elif kind.score:
        sections = {"All images, the worst score first": sorted(sample, key=lambda row: -(row["score"] or 0))}
    else:
        sections = {"All images": sample}
    return sample, {title: rows for title, rows in sections.items() if rows}


def page(
    kind: Kind,
    folder: str,
    facts: Mapping[str, Any],
    summary: Mapping[str, Any],
    tally: Tally,
    shown: Mapping[str, Sequence[Pair]],
    ended: str,
) -> str:
    """The report: counts, failures by reason, a histogram of the scores, and pairs by heading. All text is escaped.

    The page lies in `folder` below OUT, and links to the outputs there if OUT is local.
    """
    made = summary[kind.made.count]
    rows = [
        ("images", summary["images"]),
        (f"{kind.made.label} before", summary["done_before"]),
        (f"{kind.made.label} by this run", made),
    ]
    if summary["in_part"]:
        rows.append(("of images that are cut short", summary["in_part"]))
    own = [(each.label, summary[name]) for each, name in _named(kind)]
    rows += own if any(value for _, value in own) else []
    rows += [(name, summary[name]) for name in ("failed", "remaining")]
    rows.append(("left out", sum(each["count"] for each in summary["left_out"].values())))
    reasons = tally.reasons.most_common(REASONS)
    return (
        Environment(autoescape=True, finalize=lambda value: line(value) if type(value) is str else value)
        .from_string(PAGE)
        .render(
            summary=summary,
            facts=facts.items(),
            made=made,
            ended=ended,
            parts=[
                ("made", summary["done_before"] + made),
                *(("other", summary[status.count]) for status in kind.others),
                ("failed", summary["failed"]),
                ("remaining", summary["remaining"]),
            ],
            rows=rows,
            reasons=[(*reason, count, tally.examples.get(reason, [])) for reason, count in reasons],
            rest=tally.failed - sum(count for _, count in reasons),
            causes=[(name, cause_named(name).meaning) for name, _ in tally.causes.most_common()],
            left_out=[(left_out.REASONS[reason], found) for reason, found in summary["left_out"].items()],
            suffixes=summary["left_out"].get(left_out.OTHER_SUFFIX, {}).get("suffixes", {}).items(),
            score=kind.score,
            histogram=_histogram(tally.scores) if kind.score else None,
            sections=[
                (title, [_figure(pair, summary["out"], folder) for pair in pairs])
                for title, pairs in shown.items()
                if pairs
            ],
        )
    )


def _named(kind: Kind) -> list[tuple[Status | Count, str]]:
    """The statuses and counts of a kind, each with its name in the summary."""
    return [*((status, status.count) for status in kind.others), *((count, count.name) for count in kind.counts)]


def _figure(pair: Pair, out: str, folder: str) -> dict[str, Any]:
    row, before, after = pair
    remote = storage.is_s3(out)
    return {
        "key": row["key"],
        "score": "" if row["score"] is None else f" · {row['score']:.3g}",
        "before": _inline(before),
        "after": _inline(after),
        "link": "" if remote else _link(row["output"], folder),
        "place": storage.join(out, row["output"]) if remote else "",
    }


def _link(output: str, folder: str) -> str:
    """The relative link from a page in `folder` to an output, or to its shard; empty if it is not below `folder`."""
    path, below, inside = output.partition("#")[0] if "/shards/" in output else output, f"{folder}/", line(output)
    if not path.startswith(below) or inside != output:  # the name has characters that must not be shown
        return ""
    return quote(path.removeprefix(below))


def _histogram(counts: np.ndarray) -> Markup | None:
    """The middle 99 % of the scores, in about forty bars."""
    from matplotlib.figure import Figure  # takes seconds to import, and ingestion has no scores

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


def _inline(image: Image.Image) -> Markup:
    """The attributes of an <img>."""
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN))
    buffer = io.BytesIO()
    shown.save(buffer, format="png")
    pixels = ' class="pixels"' if shown.width <= SMALL else ""
    return Markup(f'src="{_data(buffer)}"{pixels}')


def _data(buffer: io.BytesIO) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
