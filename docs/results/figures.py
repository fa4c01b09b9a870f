"""Draws the figures of these pages from the values stored beside them.

python docs/results/figures.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
RETRIEVALS = {
    "another person's emoji (lower bound)": ("dlib-exaggerated", "other_emoji"),
    "faces-small, two CPU cores, 84 min": ("dlib-small-exaggerated-2.2", "emoji"),
    "faces, GPU, 161 s": ("dlib-exaggerated", "emoji"),
    "faces, GPU, 157 s, HSE's f, judge dlib": ("hse-exaggerated", "emoji"),
    "the photo itself (upper bound)": ("dlib-exaggerated", "photo"),
}


def values(name: str) -> Any:
    return json.loads((HERE / name).read_text())


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / name, dpi=100, metadata={"Software": None})
    plt.close(figure)
    print(HERE / name)


def faces() -> None:
    found = [values(f"faces/{file}.json")[key] for file, key in RETRIEVALS.values()]
    ranks = [each["median_rank"] for each in found]
    intervals = [each["median_rank_interval"] for each in found]
    errors = [[rank - low for rank, (low, _) in zip(ranks, intervals, strict=True)],
              [high - rank for rank, (_, high) in zip(ranks, intervals, strict=True)]]  # fmt: skip
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    bars = axes.barh(list(RETRIEVALS), ranks, xerr=errors, color="C0", capsize=3)
    axes.bar_label(bars, [f"{rank:.0f}" for rank in ranks], padding=14)
    axes.axvline(3001, color="grey", linestyle=":", label="chance")
    axes.set(
        xscale="log", xlim=(1, 30000), xlabel="median rank of the person's other photo among 6,001 (lower is better)"
    )
    axes.legend(loc="upper right")
    save(figure, "faces/ranks.png")


def convert() -> None:
    measured = values("convert/50000.json")["small-50000"]
    names = {"dtn-ray": "dtn-ray", "obstore": "script: asynchronous obstore", "daft": "Daft"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.4), layout="constrained", sharey=True)
    for axes, key, label in ((left, "per_second", "objects/s"), (right, "peak_MiB", "peak memory, MiB")):
        bars = axes.barh(list(names.values()), [measured[key][name] for name in names], color=["C1", "C0", "C0"])
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set(xlabel=label)
        axes.margins(x=0.2)
    save(figure, "convert/throughput.png")


def stream() -> None:
    points = values("stream/million.json")["points"]
    rows = [point["rows"] / 1e6 for point in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
    left.plot(rows, [point["per_second"] for point in points], marker="o")
    left.set(xlabel="million rows read", ylabel="images/s", ylim=(0, 3200))
    right.plot(rows, [point["MiB"] for point in points], marker="o", color="C1")
    right.set(xlabel="million rows read", ylabel="memory of all processes, MiB", ylim=(0, 9000))
    save(figure, "stream/stream.png")


def ingestion() -> None:
    runs = values("faces-speed/decoders.json")
    sizes = {
        "4000×3000": ("4000×3000, 256 and 1024 photos", 768),
        "1500×1000": ("1500×1000, 512 and 2048 photos", 1536),
    }
    names = {"dtn-ray": "dtn-ray", "ours": "script, the job's face finder", "plain": "script, plain detector"}
    figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    for i, (name, label) in enumerate(names.items()):
        rates = []
        for text, photos in sizes.values():
            rounds = runs[f"one thread of an actor decodes: ingest {text}"]
            rates.append(sum(photos / (each[name][1] - each[name][0]) for each in rounds) / len(rounds))
        bars = axes.bar([place + 0.27 * (i - 1) for place in range(2)], rates, 0.25, label=label)
        axes.bar_label(bars, fmt="{:.1f}")
    axes.set(xticks=range(2), xticklabels=list(sizes), ylabel="photos/s, mean of two runs")
    axes.legend()
    axes.margins(y=0.15)
    save(figure, "faces-speed/ingestion.png")


def super_resolution() -> None:
    measured = values("super-resolution/psnr.json")
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    for i, name in enumerate(("bicubic interpolation", "SRCNN here", "SRCNN as published")):
        bars = axes.bar([place + 0.27 * (i - 1) for place in range(3)], measured[name], 0.25, label=name)
        axes.bar_label(bars, fmt="{:.2f}")
    axes.set(xticks=range(3), xticklabels=[f"×{n}" for n in measured["factors"]], ylim=(26, 39), ylabel="PSNR, dB")
    axes.legend()
    save(figure, "super-resolution/psnr.png")


def train_step() -> None:
    parts = values("train-step/parts.json")["parts"]
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    bars = axes.barh(list(parts), list(parts.values()))
    axes.bar_label(bars, fmt="{:.1f} %", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="share of a training step")
    save(figure, "train-step/parts.png")


if __name__ == "__main__":
    for draw in (faces, convert, stream, ingestion, super_resolution, train_step):
        draw()
