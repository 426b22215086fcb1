"""Plots of a study: frontier, ensembles over the weight, and delay."""

from typing import Any

from lockgate.evaluation import Estimate
from lockgate.evaluation.plots import COLOURS, INK, STYLES, new_figure, svg, words
from recipes.reproduce_ccpp.study.result import StudyResult

__all__ = ["delay_plot", "frontier_plot", "mixing_plot"]


def frontier_plot(result: StudyResult) -> str | None:
    """Detection over relative compute in the engine, on a logarithmic axis."""
    if not result.frontier:
        return None
    drawing, axes = new_figure(6.4, 4.2)
    for i, name in enumerate(dict.fromkeys(point.system for point in result.frontier)):
        own = [point for point in result.frontier if point.system == name and point.tpr is not None]
        compute = [point.relative_compute_engine for point in own]
        _errors(axes, compute, [point.tpr for point in own], i, words(name))
    for i, system in enumerate(result.systems):
        tpr = system.points[0].tpr
        if system.escalated is None and tpr is not None and system.relative_compute_engine > 0:
            axes.plot(
                [system.relative_compute_engine],
                [100 * tpr.value],
                linestyle="none",
                marker="s",
                color=COLOURS[(i + 2) % len(COLOURS)],
                label=words(system.name),
            )
    axes.set_xscale("log")
    axes.set_xlabel(f"compute in the engine, % of {words(result.compute_reference)} (log)")
    axes.set_ylabel("harmful exchanges found (%)")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(drawing, "frontier", "Cascade frontier: compute against detection")


def mixing_plot(result: StudyResult) -> str | None:
    """Detection at the operating point over the first scorer's weight."""
    if not result.mixing:
        return None
    drawing, axes = new_figure(6.4, 3.6)
    key = f"{result.operating_point:g}"
    for i, mixing in enumerate(result.mixing):
        label = f"{words(mixing.first)} + {words(mixing.second)}"
        weights = [point.weight for point in mixing.points]
        _errors(axes, weights, [point.tpr.get(key) for point in mixing.points], i, label)
        if mixing.chosen is not None:
            axes.axvline(mixing.chosen, color=COLOURS[i % len(COLOURS)], linewidth=1, linestyle=":")
    axes.set_xlabel("weight of the first scorer")
    axes.set_ylabel("harmful exchanges found (%)")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(drawing, "mixing", "Ensembles against the mixing weight")


def delay_plot(result: StudyResult) -> str | None:
    """Share of harmful exchanges halted before a share of the answer was out."""
    if not result.delay:
        return None
    drawing, axes = new_figure(6.4, 3.6)
    for i, own in enumerate(result.delay):
        axes.plot(
            [100 * point for point in own.grid],
            [100 * value for value in own.curve],
            label=words(own.system),
            color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i % len(STYLES)],
            linewidth=1.8,
        )
    axes.set_xlabel("share of the answer out (%)")
    axes.set_ylabel("harmful exchanges halted (%)")
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(drawing, "delay", "Harmful exchanges halted by the share of the answer delivered")


def _errors(axes: Any, x: list[float], rates: list[Estimate | None], i: int, label: str) -> None:  # noqa: ANN401
    drawn = [(place, rate) for place, rate in zip(x, rates, strict=True) if rate is not None]
    values = [100 * rate.value for _, rate in drawn]
    below = [100 * (rate.value - (rate.lower if rate.lower is not None else rate.value)) for _, rate in drawn]
    above = [100 * ((rate.upper if rate.upper is not None else rate.value) - rate.value) for _, rate in drawn]
    # A bootstrap interval need not hold its estimate; a bar of negative length cannot be drawn.
    bars = [[max(0.0, length) for length in side] for side in (below, above)]
    axes.errorbar(
        [place for place, _ in drawn],
        values,
        yerr=bars,
        fmt="o-",
        color=COLOURS[i % len(COLOURS)],
        capsize=3,
        linewidth=1.4,
        label=label,
    )
