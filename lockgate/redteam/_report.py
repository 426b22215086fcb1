"""The report of a campaign: who wins where, what it costs the attacker, and what a success is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lockgate.evaluation import page_environment
from lockgate.redteam._cases import Case
from lockgate.redteam._private import open_private

# Examples in a report with texts, per variant.
_SHOWN = 12


def render_report(result: Mapping[str, Any], examples: Mapping[str, Sequence[Case]] | None = None) -> str:
    """Render the page of a campaign.

    Args:
        result: the content of its `result.json`.
        examples: breaks to show with their texts, by variant. Without them the page holds no text.
    """
    template = page_environment("lockgate.redteam").get_template("campaign.html")
    families = sorted({family for own in result["variants"].values() for family in own["families"]})
    shown = {name: list(cases)[:_SHOWN] for name, cases in (examples or {}).items()}
    return template.render(
        result=result,
        variants=result["variants"],
        families=families,
        attacks=_attacks(result),
        examples=shown,
        shade=_shade,
    )


def write_report(folder: Path, page: str) -> Path:
    """Write the page into a campaign's folder, readable by its owner only, and return its path."""
    path = folder / "report.html"
    with open_private(path) as file:
        file.write(page.encode())
    return path


def _attacks(result: Mapping[str, Any]) -> list[str]:
    """Return the attacks, the most successful against any guard first."""
    best: dict[str, float] = {}
    for own in result["variants"].values():
        for name, figures in own["attacks"].items():
            best[name] = best.get(name, 0.0) + figures["success"]
    return sorted(best, key=lambda name: (-best[name], name))


def _shade(share: float | None) -> str:
    """Return the background of a cell: the redder, the more attacks succeed. Text says the number too."""
    return "transparent" if not share else f"rgb(200 60 40 / {0.12 + 0.58 * share:.2f})"
