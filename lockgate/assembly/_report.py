"""The report of a build: a page, a JSON file, a section of the model card, and lines for the terminal."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lockgate.assembly._fit import describe_fit
from lockgate.assembly._picture import Picture
from lockgate.assembly._top import describe_top
from lockgate.assembly._voice import describe_voice
from lockgate.evaluation import page_environment, write_page

_SHOWN = 8


def write_reports(folder: Path, content: Mapping[str, Any], picture: Picture) -> dict[str, Path]:
    """Write `report.json` and `report.html`; return their paths. They hold ids and no text of exchanges."""
    page = _environment().get_template("build.html").render(report=content, picture=picture)
    return write_page(folder, "report", content, page)


def write_measured(content: Mapping[str, Any]) -> str:
    """Return the section of the model card with the held-out figures and their source."""
    held = content["held_out"]
    if held is None:
        return ""
    lines = [
        "## Measured\n",
        f"On {held['n_harmful']} harmful and {held['n_harmless']} harmless synthetic exchanges that "
        "neither trained "
        "nor set the threshold: "
        f"{show(held['tpr'])} of the harmful flagged, {show(held['fpr'])} of the harmless"
        f"{_refusals_words(held)}. They come from the same generator as the training data: what people write "
        "is another matter.\n",
        "| harmful category | exchanges | flagged (95 % interval) |",
        "|---|--:|--:|",
    ]
    lines += [f"| {part['key']} | {part['n']} | {show(part['rate'])} |" for part in held["tpr_by_category"]]
    lines += [f"| {part['key']} | {part['n']} | {show(part['rate'])} |" for part in held["tpr_by_kind"]]
    return "\n".join(lines) + "\n"


def summarise_build(content: Mapping[str, Any]) -> list[str]:
    """Return the report as plain lines for a terminal."""
    rows, claim, held = content["rows"], content["claim"], content["held_out"]
    lines = [
        f"guard: {content['guard']} ({content['constitution']['name']} {content['constitution']['version']}, "
        f"{'calibrated' if content['calibrated'] else 'UNCALIBRATED'})",
        f"trained on {rows['training']['harmful']} harmful and {rows['training']['harmless']} harmless "
        f"exchanges: {rows['synthetic']} synthetic, {rows['data']} of your labelled exchanges, "
        f"{rows['benign_training']} of your traffic",
        _claim_line(claim),
        *_review_lines(rows["feedback"], rows["dropped"]),
        *_proposal_lines(content["proposal"]),
    ]
    if held is not None:
        lines.append(
            f"held-out synthetic exchanges: {show(held['tpr'])} of {held['n_harmful']} harmful flagged, "
            f"{show(held['fpr'])} of {held['n_harmless']} harmless{_refusals_words(held)}"
        )
        lines += _part_lines(held["tpr_by_category"], "harmful")
        lines += _part_lines([part for part in held["tpr_by_kind"] if "held-out" in part["key"]], "harmful")
    for found in content["evaluation"]:
        lines.append(
            f"{found['name']}: {show(found['tpr'])} of {found['n_harmful']} harmful flagged, "
            f"{show(found['fpr'])} of {found['n_harmless']} harmless"
        )
    lines += [describe_fit(content["fit"]), describe_voice(content["voice"])]
    lines += _second_lines(content["second_stage"])
    lines += describe_top(content["top"])
    lines += _update_lines(content["update"])
    for title, entries in (
        ("limits", content["limits"]),
        ("what a stronger generator would change", content["changes"]),
        ("next", content["next"]),
    ):
        lines += [f"{title}:", *(f"  - {entry}" for entry in entries)] if entries else []
    return lines


def show(estimate: Mapping[str, Any] | None) -> str:
    """Return a share with its interval, in per cent."""
    if estimate is None:
        return "-"
    value = f"{estimate['value']:.1%}"
    if estimate["lower"] is None or estimate["upper"] is None:
        return value
    return f"{value} [{estimate['lower']:.1%}, {estimate['upper']:.1%}]"


def _claim_line(claim: Mapping[str, Any]) -> str:
    if claim["budget"] is None:
        return f"no false-refusal rate is claimed: {claim['reason']}; the threshold is provisional"
    found = claim["false_refusal_rate"]
    text = (
        f"refusal budget {claim['budget']:.2%}: {found['flagged']} of {found['n']} distinct prompts of "
        f"your traffic flagged, upper bound {found['bound']:.3%} at {found['confidence']:.0%} confidence"
    )
    if claim["budget"] > claim["wished"]:
        text += f" ({claim['wished']:.2%} needs {claim['wished_needs']} prompts)"
    if claim["reviewed"] is not None:
        text += f"; {claim['reviewed']['prompts']} reviewed prompts are not in that sample"
    if claim["excluded"] is not None:
        text += f"; {claim['excluded']['exchanges']} exchanges that break the policy are left out"
    return text


def _refusals_words(held: Mapping[str, Any]) -> str:
    found = held["refusals"]
    return "" if found is None else f", and {show(found['rate'])} of {found['n']} refusals from templates"


def _part_lines(parts: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    return [f"  {part['key']}: {show(part['rate'])} of {part['n']} {what}" for part in parts]


def _review_lines(found: Mapping[str, Any] | None, dropped: Mapping[str, int]) -> list[str]:
    if found is None:
        return []
    top = found["top"]
    again = [line for lines in found["repeated"] for line in lines[1:]]
    parts = [f"reviews: {found['lines']} lines", f"repeated: {len(again)}{_at(again)}"]
    for about, effect in (("verdict", "not trained on"), ("category", "left without a category")):
        conflicts = [conflict for conflict in found["conflicts"] if conflict["about"] == about]
        lines = [line for conflict in conflicts for said in conflict["lines"].values() for line in said]
        parts.append(f"in conflict about the {about}: {len(conflicts)}{_at(lines)}")
        parts[-1] += f", {effect}" if conflicts else ""
    if leaked := dropped.get("feedback/evaluation_leak"):
        parts.append(f"matching evaluation items: {leaked}, left out")
    return [
        "; ".join(parts),
        f"  {found['trained']} train, {found['held_out']} are held out; training rows: "
        f"{found['relabelled']} relabelled with {found['followed']} disguised copies, "
        f"{found['confirmed']} confirmed, {found['withdrawn']} withdrawn as related to a review",
        *(
            [
                f"  top of the traffic: {top['confirmed']} are harmless and stay in the sample, "
                f"{top['excluded'] + top['trained']} break the policy and are left out of it"
                + (f", {top['trained']} of them used like other reviews" if top["trained"] else "")
            ]
            if any(top.values())
            else []
        ),
    ]


def _at(lines: Sequence[int]) -> str:
    if not lines:
        return ""
    shown = ", ".join(str(line) for line in sorted(lines)[:_SHOWN])
    return f" (lines {shown}{', ...' if len(lines) > _SHOWN else ''})"


def _proposal_lines(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = []
    if found["path"] is not None:
        lines.append(
            f"proposed entries: {len(found['additions'])} in {found['path']}; read them, then build with "
            "that file"
        )
    return lines + [f"  {note}" for note in found["notes"][:_SHOWN]]


def _second_lines(second: Mapping[str, Any] | None) -> list[str]:
    if second is None:
        return []
    return [
        f"second stage in {second['path']}, not yet part of the guard: trained on "
        f"{second['exchanges']['harmful']} harmful and {second['exchanges']['harmless']} harmless exchanges, "
        f"{second['mined']} of them mined from {second['pool']}"
    ]


def _update_lines(update: Mapping[str, Any] | None) -> list[str]:
    if update is None:
        return []
    lines = [
        f"compared with the old guard, on {update['n']} exchanges that trained neither: {update['verdict']}"
    ]
    lines += [f"  {reason}" for reason in update["reasons"][:_SHOWN]]
    for change in (*update["overall"], *update["categories"]):
        kind = "harmful" if change["harmful"] else "harmless"
        lines.append(
            f"  {change['category']} ({kind}, {change['n']}): {change['before']['value']:.1%} to "
            f"{change['after']['value']:.1%} flagged; {len(change['gained'])} corrected, "
            f"{len(change['lost'])} newly wrong"
        )
    if update["reviews"] is not None:
        found = update["reviews"]
        lines.append(
            f"  {found['n']} reviewed exchanges that did not train: {found['mended']} corrected, "
            f"{found['spoilt']} newly wrong"
        )
    return lines


@cache
def _environment() -> Environment:
    environment = page_environment("lockgate.assembly")
    environment.filters.update(show=show, claim=_claim_line, second=_second_lines, top=describe_top)
    environment.filters.update(fit=describe_fit, voice=describe_voice)
    return environment
