"""The study on the page of results: its tables and what may be claimed of them, from the result file alone."""

from typing import Any


def summary_tables(found: dict[str, Any]) -> str:
    """The four systems, and what each does to disguised requests."""
    lines = [
        "| system | compute, in the engine | compute, in front | attack success | benign flagged | escalated |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in found["systems"].items():
        escalated = "–" if row["escalated"] is None else f"{row['escalated']:.1%}"
        misses = [1 - row["tpr"], 1 - row["tpr_ci"][1], 1 - row["tpr_ci"][0]]
        lines.append(
            f"| {name.replace('_', ' ')} | {row['relative_compute_engine']:.3g} % | "
            f"{row['relative_compute_front']:.3g} % | {percent(misses)} | "
            f"{percent([row['flagged'], *row['flagged_ci']], 2)} | "
            f"{escalated} |"
        )
    lines += [
        "",
        f"Cuts at {found['operating_point']:.1%} of {found['n_calibration']} benign calibration prompts; "
        f"{found['n_harmful']} harmful and {found['n_benign']} other benign exchanges. Compute is relative to "
        f"{found['compute_reference'].replace('_', ' ')}. Intervals are 95 %.",
    ]
    if found["shared"] is not None:
        lines += [
            "",
            f"On the backbone's own lower layers the exchange classifier gives the same scores for "
            f"{found['shared']['relative_compute_engine']:.3g} % in the engine.",
        ]
    return "\n".join([*lines, *claims(found), *disguise_table(found["disguise"])])


def claims(found: dict[str, Any]) -> list[str]:
    """Compare production with the exchange classifier, and say whether production is at least as robust."""
    own, point, lenient = found["claim"], found["operating_point"], found["claim_point"]
    rows = {
        row["macro"]: row
        for row in found["robustness"]
        if (row["first"], row["second"], row["fpr"]) == ("production", "exchange", point)
    }
    verdict = "at least as robust" if own["production_at_least_as_robust"] else "not shown to be as robust"
    lines = [
        "",
        f"Production takes {1 / own['exchange_compute_over_production']:.2%} of the exchange classifier's "
        f"compute in the engine ({own['exchange_compute_over_production']:.0f} times less). Its TPR minus that "
        f"classifier's is {signed(rows[False])} over all harmful exchanges and {signed(rows[True])} in the mean "
        f"over sets: {verdict} (a lower end above -0.02).",
    ]
    scorers = found["scorers"]
    ahead = [name for name, beats in own["exchange_beats"].items() if not beats]
    if ahead:
        held = "; ".join(
            f"`{name}` finds {scorers[name]['tpr_macro']:.3f}, the exchange classifier "
            f"{scorers[name]['exchange_tpr_macro']:.3f} (difference "
            f"{scorers[name]['exchange_minus_scorer']:+.3f}, {span(scorers[name]['ci'])})"
            for name in ahead
        )
        lines += [
            "",
            "**Whether reading exchanges beats the alternatives: no comparison is claimed.** At "
            f"{lenient:.0%} of benign exchanges the exchange classifier does not beat every scorer that it has to, "
            f"in the mean over sets: {held}.",
        ]
    return lines


def signed(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.3f} ({span(row['ci'])})"


def span(ends: list[float]) -> str:
    return f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def disguise_table(found: dict[str, Any]) -> list[str]:
    systems = found["systems"]
    shown = [name for name in ("last_generation", "exchange", "production") if name in systems]
    heads = [f"{name.replace('_', ' ')}: found | false alarms" for name in shown]
    lines = ["", f"| stand-ins | {' | '.join(heads)} |", f"|---|{'--:|' * 2 * len(shown)}"]
    for part in systems["exchange"]["sets"]:
        cells = []
        for name in shown:
            own = systems[name]["sets"][part]
            for key in ("detected", "false_alarms"):
                cells.append(percent([own[key], *own[f"{key}_ci"]]) if key in own else "–")
        lines.append(f"| {part.removeprefix('disguise_').replace('_', ' ')} | {' | '.join(cells)} |")
    counts = [own["n_detected"] for own in systems["exchange"]["sets"].values() if "n_detected" in own]
    return [
        *lines,
        "",
        f"Harmless stand-ins for a policy of their own, in disguises unseen in training, and permitted twins in the "
        f"same disguise (false alarms); {' + '.join(map(str, counts))} attacks. Cuts at "
        f"{found['operating_point']:.0%} of {found['n_calibration']} ordinary prompts.",
    ]


def percent(values: list[float], digits: int = 1) -> str:
    value, low, high = (f"{value:.{digits}%}" for value in values)
    return f"{value} ({low} to {high})"
