"""The figures of the attacks as text for docs/redteam.md."""

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "none": "none",
    "input-output": "input + output",
    "exchange": "exchange",
    "production": "production",
}


def table_of(found: Mapping[str, Any]) -> str:
    """Return the tables: variants, families that no guard was trained on, searches, defences."""
    return "\n\n".join(
        [_variants(found), _families(found), _adaptive(found), _defences(found), _sentences(found)]
    )


def _rate(own: Mapping[str, Any]) -> str:
    if own["success"] is None:
        return "-"
    low, high = own["ci"]
    return f"{own['success']:.3f} ({low:.3f} to {high:.3f})"


def _variants(found: Mapping[str, Any]) -> str:
    lines = [
        "| guard | success | families not trained on | high risk per 1,000 attempts | best attack | twins halted |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, own in found["variants"].items():
        risk, best = own["high_risk_per_1000"], own["universal"]
        low, high = risk["ci"]
        lines.append(
            f"| {_NAMES[name]} | {_rate(own['success'])} | {_rate(own['held_out'])} | "
            f"{risk['value']:.1f} ({low:.1f} to {high:.1f}) | {best['passed']} of {best['of']} | "
            f"{own['twins_halted']['success']:.3f} of {own['twins_halted']['n']} |"
        )
    return "\n".join(lines)


def _families(found: Mapping[str, Any]) -> str:
    variants, names = found["variants"], ["plain", *found["campaign"]["held_out"]]
    lines = [
        f"| family | plays | {' | '.join(_NAMES[name] for name in variants)} |",
        f"|---|--:|{'--:|' * len(variants)}",
    ]
    for family in names:
        cells = [own["families"].get(family) for own in variants.values()]
        if all(cells):
            shown = " | ".join("-" if cell is None else f"{cell['success']:.2f}" for cell in cells)
            lines.append(f"| {family} | {cells[0]['n'] if cells[0] else 0} | {shown} |")
    return "\n".join(lines)


def _adaptive(found: Mapping[str, Any]) -> str:
    lines = ["| search | budget | plays | success | queries to the first break |", "|---|---|--:|--:|--:|"]
    for name, own in found["adaptive"].items():
        budget = own["budget"]
        told = (
            budget
            if isinstance(budget, int)
            else ", ".join(f"{key} {value}" for key, value in budget.items())
        )
        first = own["queries_to_first_break"]
        lines.append(
            f"| {name} | {told} | {own['n']} | {_rate(own)} | {'none' if first is None else first} |"
        )
    return "\n".join(lines)


def _defences(found: Mapping[str, Any]) -> str:
    lines = [
        "| defence | plays | before | after | p | twins halted | kept |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for one in found["defences"]:
        p = "-" if "p" not in one else f"{one['p']:.3f}"
        twins = "-"
        if "twins" in one:
            old, new = one["twins"]["before"], one["twins"]["after"]
            twins = f"{old['halted']} to {new['halted']} of {new['n']}"
        lines.append(
            f"| {one['name']} | {one['before']['n']} | {_rate(one['before'])} | {_rate(one['after'])} | {p} | {twins} | {'yes' if one['kept'] else 'no'} |"
        )
    return "\n".join(lines)


def _sentences(found: Mapping[str, Any]) -> str:
    leak, judge = found["leak_before_halt"], found["judge"]
    some, enough = leak["topics"], leak["enough"]
    late, without = leak["with_delay"], leak["without_delay"]
    return (
        f"Of {some['n']} attempts against the production guard, {_share(some)} let a topic through before they were "
        f"halted, and {_share(enough)} enough topics for a success. In the shorter attacks these were "
        f"{_share(late['topics'])} and {_share(late['enough'])} of {late['topics']['n']}, and without the delay of the "
        f"guard {_share(without['topics'])} and {_share(without['enough'])} of {without['topics']['n']}. The judge called {judge['false_success']['count']} of {judge['false_success']['n']} labelled "
        f"failures a success, and missed {judge['missed']['count']} of {judge['missed']['n']} successes."
    )


def _share(one: Mapping[str, Any]) -> str:
    low, high = one["ci"]
    return f"{one['count']} ({100 * one['success']:.2f} %, {100 * low:.2f} to {100 * high:.2f})"
