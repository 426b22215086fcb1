"""Step 12: what a language model as a further judge gains at the guard's budget.

    python -m recipes.embedded_guard.language_figures            # write results/embedded_guard/language.json and LOG.md
    python -m recipes.embedded_guard.language_figures --check    # fail if they differ

Everything follows from the committed tables; `language_judge` has made the verdicts. Three second stages are calibrated
alike: the text baseline of the guard, the language model, and both as a panel. Each gets its weight beside the probe
on development exchanges, and the panel gets its shares there too. The cut is each one's own for the same budget.

Tests whose answers were not kept are left out. The judges also rank the exchanges that the screen asks about, without
the probe.
"""

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import CascadeCalibration
from lockgate.evaluation import Detections, auroc
from lockgate.tables import BlockTrace
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.language_judge import PARTS, UNREAD, VOICE
from recipes.embedded_guard.recall import LOG, RESULTS, SUMMARY, settings
from recipes.embedded_guard.two_stages import BENIGN, NEWER_TESTS, TESTS, Judge, VoiceShare
from recipes.results_page import write_block
from recipes.steps import step_parser

TARGET = RESULTS / "language.json"
SETS = tuple(name for name in (*TESTS, *NEWER_TESTS) if f"test_{name}" not in UNREAD)
OLDER_SETS = tuple(name for name in SETS if name in TESTS)
# Of the text baseline in the panel.
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
TITLES = {"text": "text baseline, as shipped", VOICE: "language model", "panel": "both"}


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file; write nothing")
    arguments = parser.parse_args()
    found = compute()
    content = json.dumps(found, indent=1) + "\n"
    if arguments.check:
        if TARGET.read_text() != content or table(found) not in LOG.read_text():
            sys.exit(f"{TARGET.name} or LOG.md differ from the committed tables")
        print("every figure follows from the committed tables")
        return
    TARGET.write_text(content)
    write_block(LOG, VOICE, table(found))


def compute() -> dict[str, Any]:
    kept = json.loads(SUMMARY.read_text())
    head, budget = kept["two_stage"]["head"], kept["budget"]
    study = Study(head, budget)
    panel, shares = study.panel()
    judges: dict[str, Judge] = {"text": "text", VOICE: VOICE, "panel": panel}
    found = {name: study.calibrate(judge) for name, judge in judges.items()}
    flags = {name: study.flags(judge, found[name]) for name, judge in judges.items()}
    return {
        "command": "python -m recipes.embedded_guard.language_figures",
        "budget": budget,
        "unread": list(UNREAD),
        "shares": [[share, round(tpr, 4)] for share, tpr in shares],
        "panel": [[row.voice, row.weight, round(row.mean, 5), round(row.std, 5)] for row in panel],
        "judges": {name: study.figures(found[name], flags[name]) for name in judges},
        "minus_text": {name: study.compare(flags[name], flags["text"]) for name in (VOICE, "panel")},
        "ranking": study.ranking(),
    }


class Study:
    """The parts of the recipe, with the verdicts on what the screen asks about."""

    def __init__(self, head: str, budget: float) -> None:
        self.head, self.budget, self.settings = head, budget, settings()
        self.parts = {part: two_stages.read_part(RESULTS, part, head) for part in PARTS}
        self.screen = two_stages.choose_screen(self.parts["calibration"])

    def calibrate(self, judge: Judge) -> CascadeCalibration:
        return two_stages.calibrate(
            RESULTS, self.head, "answer", self.budget, settings=self.settings, voice=judge
        )

    def panel(self) -> tuple[tuple[VoiceShare, ...], list[tuple[float, float]]]:
        """Choose the shares of text and language model, as `lockgate calibrate` does for a panel.

        Returns:
            The voices with a share, and what each share of the text catches on development exchanges with the best
            weight of the probe.
        """
        scales = {voice: self.scale(voice) for voice in ("text", VOICE)}
        tried = []
        for share in SHARES:
            voices = tuple(
                VoiceShare(voice, weight, *scales[voice])
                for voice, weight in (("text", share), (VOICE, round(1 - share, 1)))
                if weight
            )
            tpr = max(row.tpr for row in self.calibrate(voices).weights)
            tried.append((share, tpr, voices))
        best = max(tried, key=lambda row: (row[1], -abs(row[0] - 0.5)))
        return best[2], [(share, tpr) for share, tpr, _ in tried]

    def scale(self, voice: str) -> tuple[float, float]:
        """Return mean and standard deviation of a voice's largest logit over the asked calibration exchanges."""
        largest = np.array([own.max() for own in self.asked("calibration", voice) if len(own)])
        return float(largest.mean()), float(largest.std())

    def asked(self, part: str, voice: str) -> list[NDArray[np.float32]]:
        """Return a voice's logits on the blocks of each suspect that the screen asks about."""
        blocks = BlockTrace.read(RESULTS / "two_stage" / f"{part}.blocks.parquet")
        known = np.isfinite(blocks.voices[VOICE])
        rows = [blocks.of(number) for number in range(len(self.screen.suspects(self.parts[part])))]
        return [blocks.voices[voice][row][known[row]] for row in rows]

    def flags(self, judge: Judge, found: CascadeCalibration) -> dict[str, NDArray[np.bool_]]:
        """Return which exchanges of each part are flagged."""
        return {
            part: two_stages.mixed_scores(
                two_stages.read_traces(RESULTS, part, own, self.screen, judge), found.cascade, "answer"
            )
            > found.calibration.cut
            for part, own in self.parts.items()
        }

    def detections(self, part: str, flags: dict[str, NDArray[np.bool_]]) -> Detections:
        own = self.parts[part]
        return Detections(flags[part][own.harmful], own.prompts[own.harmful])

    def figures(self, found: CascadeCalibration, flags: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
        sets = {name: self.detections(f"test_{name}", flags) for name in SETS}
        harmless = {part: ~self.parts[part].harmful for part in PARTS}

        def wrong(part: str) -> dict[str, Any]:
            rows = harmless[part]
            return two_stages.share(flags[part][rows], self.parts[part].prompts[rows])

        return {
            "weight": found.cascade.weight,
            "cut": round(found.calibration.cut, 5),
            "development_at_selection": round(max(row.tpr for row in found.weights), 4),
            "development": two_stages.rate(self.tried(flags), 0),
            "sets": {name: two_stages.rate([own], 0) for name, own in sets.items()},
            "mean_older": two_stages.rate([sets[name] for name in OLDER_SETS], 0),
            "mean": two_stages.rate(list(sets.values()), 0),
            "benign": {part: wrong(part) for part in BENIGN},
            "harmless_in_sets": {name: wrong(f"test_{name}") for name in SETS},
        }

    def tried(self, flags: dict[str, NDArray[np.bool_]]) -> list[Detections]:
        sides = [self.detections(part, flags) for part in ("dev", "voice_dev")]
        groups = np.concatenate([np.asarray(own.groups) for own in sides])
        return [Detections(np.concatenate([own.flags for own in sides]), groups)]

    def compare(
        self, first: dict[str, NDArray[np.bool_]], second: dict[str, NDArray[np.bool_]]
    ) -> dict[str, Any]:
        """Return the differences in TPR of two judges, paired by prompt."""

        def difference(sides: list[tuple[Detections, Detections]]) -> dict[str, Any]:
            found = two_stages.compared([list(pair) for pair in sides], self.budget, 0)
            return {"difference": found["difference"], "ci": found["ci"]}

        sets = {
            name: (self.detections(f"test_{name}", second), self.detections(f"test_{name}", first))
            for name in SETS
        }
        tried = list(zip(self.tried(second), self.tried(first), strict=True))
        return {
            "development": difference(tried),
            "sets": {name: difference([own]) for name, own in sets.items()},
            "mean_older": difference([sets[name] for name in OLDER_SETS]),
            "mean": difference(list(sets.values())),
        }

    def ranking(self) -> dict[str, Any]:
        """Return the AUROC of each judge alone over what the screen asks about: harmful tests against other benign."""
        benign = {voice: self.largest("benign_test", voice) for voice in ("text", VOICE)}
        made: dict[str, Any] = {}
        for name in SETS:
            harmful = self.parts[f"test_{name}"].harmful[self.screen.suspects(self.parts[f"test_{name}"])]
            made[name] = {}
            for voice, quiet in benign.items():
                own = self.largest(f"test_{name}", voice)[harmful]
                loud = own[np.isfinite(own)]
                scores = np.concatenate([quiet[np.isfinite(quiet)], loud])
                labels = np.arange(len(scores)) >= len(scores) - len(loud)
                made[name][voice] = {"n_harmful": len(loud), "auroc": round(auroc(scores, labels), 4)}
        return {"n_harmless": int(np.isfinite(benign["text"]).sum()), "sets": made}

    def largest(self, part: str, voice: str) -> NDArray[np.float64]:
        """Return a voice's largest logit on each suspect, minus infinity where it is not asked."""
        return np.array([max(own, default=-np.inf) for own in self.asked(part, voice)], dtype=np.float64)


def table(found: dict[str, Any]) -> str:
    """The table of LOG.md: one line for each judge."""
    lines = [
        f"| second stage | weight of the probe | development | {' | '.join(f'`{name}`' for name in SETS)} | mean "
        "| others | near the policy |",
        f"|---|--:|--:|{'--:|' * len(SETS)}--:|--:|--:|",
    ]
    for name, row in found["judges"].items():
        rates = " | ".join(f"{row['sets'][own]['tpr']:.3f}" for own in SETS)
        low, high = row["mean"]["ci"]
        others, near = row["benign"]["benign_test"], row["benign"]["over_refusal"]
        lines.append(
            f"| {TITLES[name]} | {row['weight']:g} | {row['development']['tpr']:.3f} | {rates} "
            f"| {row['mean']['tpr']:.3f} ({low:.3f} to {high:.3f}) | {others['hits']} of {others['n']} "
            f"| {near['hits']} of {near['n']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
