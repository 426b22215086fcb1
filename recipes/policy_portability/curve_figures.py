"""Figures and picture of the learning curve, from its table alone. Intervals come from whole pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
from matplotlib.figure import Figure

from lockgate.durable import open_atomic
from recipes.policy_portability.policy_pairs import POLICIES
from recipes.policy_portability.small_set_figures import difference, measure_system

NOTHING = "pass_everything"
MEASURES = ("both_right", "balanced_accuracy")
_COLOURS = ("#1f6f8b", "#b5542b")


def figures(table: pa.Table) -> dict[str, Any]:
    """Return the figures by number of labelled exchanges: `policy`, which `results/policy.json` shares, and `curve`.

    Args:
        table: one line for each exchange, constitution and system. A guard's system is its number of labelled
            exchanges, as text; the others are keyword lists and passing everything.
    """
    lines = table.to_pylist()
    flipped = {line["pair"] for line in lines if line["flipped"]}
    own: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        own.setdefault(line["system"], []).append(line)
    systems = {name: measure_system(rows, flipped) for name, rows in own.items()}
    sizes = sorted((name for name in systems if name.isdecimal()), key=int)
    keyword = max(
        (name for name in systems if name.startswith("keyword")),
        key=lambda name: systems[name]["together"]["balanced_accuracy"]["value"],
    )
    policy: dict[str, Any] = {
        measure: {size: systems[size]["together"][measure] for size in sizes} for measure in MEASURES
    }
    policy["keywords"] = {"list": keyword, **systems[keyword]["together"]}
    policy[NOTHING] = systems[NOTHING]["together"]
    curve = {
        "n_pairs": len({line["pair"] for line in lines}),
        "n_flipped": len(flipped),
        "systems": systems,
        "minus_keywords": {size: difference(own[size], own[keyword], flipped) for size in sizes},
        "minus_none": {
            size: difference(own[size], own["0"], flipped) for size in sizes if size != "0" and "0" in own
        },
    }
    return {"policy": policy, "curve": curve}


def draw(curve: Mapping[str, Any], keyword: str, place: Path) -> None:
    """Draw both policies' shares of pairs with both verdicts right, with their intervals, as SVG."""
    systems = curve["systems"]
    sizes = sorted((name for name in systems if name.isdecimal()), key=int)
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "learning-curve",
            "font.family": "sans-serif",
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained", facecolor="white")
        names = [name for name in POLICIES if name in systems[sizes[0]]]
        places = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name, colour in zip(places, names, _COLOURS, strict=False):
            found = [systems[size][name]["both_right"] for size in sizes]
            values = [one["value"] for one in found]
            below = [max(0.0, one["value"] - one["ci"][0]) for one in found]
            above = [max(0.0, one["ci"][1] - one["value"]) for one in found]
            axes.errorbar(
                range(len(sizes)),
                values,
                yerr=[below, above],
                marker="o",
                capsize=3,
                color=colour,
                label="guard",
            )
            for other, style, label in ((keyword, "--", "keyword list"), (NOTHING, ":", "pass everything")):
                axes.axhline(
                    systems[other][name]["both_right"]["value"], color="#555555", linestyle=style, label=label
                )
            axes.set(title=name, ylim=(0, 1), xlabel="labelled exchanges", xticks=range(len(sizes)))
            axes.set_xticklabels(sizes)
            axes.grid(alpha=0.2)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel("both verdicts of a pair right")
        figure.axes[0].legend(frameon=False, loc="upper left")
        with open_atomic(place) as file:
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
