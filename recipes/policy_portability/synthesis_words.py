"""The text about building guards in the documents, from the summary alone."""

import re
import sys
from pathlib import Path
from typing import Any

MARKERS = re.compile(r"(<!-- synthesis:start -->\n).*?(<!-- synthesis:end -->)", re.S)


def readme_words(found: dict[str, Any]) -> str:
    """Return the text: the time of a build, the guards' results on the pairs, the effect of synthetic data."""
    return "\n".join([*_build(found), "", *_policies(found), "", *_value(found)])


def write_readme(path: Path, found: dict[str, Any]) -> None:
    """Put the text between its marks. Exits if the marks are missing."""
    text = path.read_text()
    if not MARKERS.search(text):
        sys.exit(f"{path.name} lacks the lines <!-- synthesis:start --> and <!-- synthesis:end -->")
    path.write_text(MARKERS.sub(lambda match: f"{match[1]}{readme_words(found)}\n{match[2]}", text))


def _build(found: dict[str, Any]) -> list[str]:
    (name, own), *others = found["builds"].items()
    more = "".join(f"; `{other}` took {record['minutes']:.0f}" for other, record in others)
    return [
        f"Measured (`results/synthesis.json`): building `{name}` with nothing but the embedded model took "
        f"{found['build_minutes']:.0f} minutes on {own['cores']} cores{more}."
    ]


def _policies(found: dict[str, Any]) -> list[str]:
    whole, opposed = found["policy"], found["policy_by_constitution"]
    lines = [
        f"Two constitutions that contradict each other, built in the same way, judge {whole['n_pairs']} hand-written "
        f"pairs ({whole['n_flipped']} flipped; `recipes/policy_portability/`). Balanced accuracy with 95 % interval, and "
        "share of flipped pairs with both verdicts right:",
        "",
        "| constitution | guard | both right | keywords | both right | TPR | harmless flagged |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, own in opposed.items():
        guard, keyword = own["guard"], own["keyword"]
        lines.append(
            f"| `{name}` | {_span(guard['balanced_accuracy'])} | {guard['both_right']['value']:.3f} | "
            f"{_span(keyword['balanced_accuracy'])} | {keyword['both_right']['value']:.3f} | "
            f"{guard['tpr']:.3f} | {guard['fpr']:.3f} |"
        )
    return [
        *lines,
        f"| both | {_span({'value': whole['balanced_accuracy'], 'ci': whole['balanced_accuracy_ci']})} | "
        f"{whole['both_right']:.3f} | {whole['keyword_balanced_accuracy']:.3f} | {whole['keyword_both_right']:.3f} | | |",
        "",
        f"Passing everything would be right on both sides of {whole['both_right_by_passing_everything']:.3f} of them. The "
        "guards' thresholds keep a refusal budget on ordinary traffic; the keyword lists' cuts don't.",
    ]


def _value(found: dict[str, Any]) -> list[str]:
    tpr, is_ = found["tpr"], found["tpr_is"]
    cells = ", ".join(
        f"{name} {tpr[name]:.3f} (AUROC {is_['auroc'][name][0]:.3f}, n = {is_['trained_on'][name]['exchanges']})"
        for name in tpr
    )
    return [
        "Do data written by the embedded model help on real data? The shipped probe, trained on three sets, macro TPR at "
        f"0.1 % of the {is_['n_harmless']} harmless development exchanges: {cells}."
    ]


def _span(found: dict[str, Any]) -> str:
    low, high = found["ci"]
    return f"{found['value']:.3f} ({low:.3f} to {high:.3f})"
