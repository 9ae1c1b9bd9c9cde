"""Draw the results. Run by the Python of matplotlib's own environment.

python -m tests.benchmarks.plot RESULTS.json PICTURE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

OURS, OTHERS, MISSED = "#1f6f8b", "#b8bfc6", "#c8553d"
CONTESTS = {
    "import-new": "import of new rows, PostgreSQL",
    "import-changed": "import of changed rows, PostgreSQL",
    "import-sqlite": "import of new rows, SQLite",
    "export": "export, PostgreSQL",
    "export-sqlite": "export, SQLite",
    "shards": "import by shards, PostgreSQL",
}


def main() -> None:
    """Read the results and write the picture."""
    source, picture = map(Path, sys.argv[1:])
    findings = json.loads(source.read_text())
    figure, (bars, rates) = plt.subplots(1, 2, figsize=(18, 11), layout="constrained")
    draw_bars(bars, [bar for outcome in findings["outcomes"].values() for bar in outcome["bars"]])
    draw_rates(rates, {name: findings["outcomes"].get(name, {}).get("series", {}) for name in CONTESTS})
    figure.suptitle(f"{findings['machine']['processor']}, {findings['machine']['cores']} cores: {findings['command']}")
    figure.savefig(picture, dpi=90)


def draw_bars(axes: Axes, bars: list[dict[str, Any]]) -> None:
    """Show how far each bar is from its goal: 1 is the goal, further right is better."""
    shown = [bar for bar in bars if bar["goal"] and bar["values"]]
    for place, bar in enumerate(reversed(shown)):
        goal, at_least = bar["goal"]["number"], bar["goal"]["words"] == "at least"
        margins = sorted(value / goal if at_least else goal / max(value, 1e-9) for value in bar["values"])
        reached = median(margins)
        axes.barh(place, reached, color=OURS if reached >= 1 else MISSED)
        axes.plot((margins[0], margins[-1]), (place, place), color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [_wrapped(bar["what"]) for bar in reversed(shown)], fontsize=7)
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_title("reached / goal (dashed: the goal; line: least to greatest round)", fontsize=10)


def draw_rates(axes: Axes, contests: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Show every contender's rate, contest by contest."""
    labels: list[str] = []
    for contest, series in reversed(contests.items()):
        for name, rounds in reversed(series.items()):
            rate = median(one["records"] / one["seconds"] for one in rounds)
            axes.barh(len(labels), rate, color=OURS if name.startswith("exchange") else OTHERS)
            axes.text(rate, len(labels), f" {rate:,.0f}", va="center", fontsize=7)
            labels.append(f"{CONTESTS[contest]}: {name}")
    axes.set_yticks(range(len(labels)), map(_wrapped, labels), fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_title("rows a second (median)", fontsize=10)


def _wrapped(text: str, width: int = 60) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(line.strip() for line in lines)


if __name__ == "__main__":
    main()
