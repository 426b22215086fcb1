"""Step 13: what a memory of conversations catches, and whom it stops.

    python -m recipes.embedded_guard.conversation_memory            # write results/conversation_memory.json
    python -m recipes.embedded_guard.conversation_memory --check    # fail if it differs

Everything follows from the committed tables of the shipped guard. Conversations are made of rows that are there: ten
exchanges in a row of one source of harmless traffic; every answer to one request, as when somebody regenerates it
again and again; ten different attacks one after the other. The memory is calibrated on the calibration part, for .5 %
of its conversations of ten, and read off on the others.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lockgate.calibration import clopper_pearson
from lockgate.cascade.memory import Memory
from lockgate.guards import EMBEDDED, read_bundle
from lockgate.traffic import MemoryPlan, choose_memory
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.recall import RESULTS, SUMMARY, settings
from recipes.steps import step_parser

TARGET = Path(__file__).parents[2] / "results" / "conversation_memory.json"
LENGTH = 10
PLAN = MemoryPlan(budget=0.005)

Course = list[float]


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file; write nothing")
    arguments = parser.parse_args()
    content = json.dumps(compute(), indent=1) + "\n"
    if arguments.check:
        if TARGET.read_text() != content:
            sys.exit(f"{TARGET.name} differs from the committed tables")
        print("every figure follows from the committed tables")
        return
    TARGET.write_text(content)


def compute() -> dict[str, Any]:
    study = Study()
    benign = study.by_source("calibration")
    record = choose_memory(
        read_bundle(EMBEDDED).record, benign, [str(number) for number in range(len(benign))], PLAN
    )
    memory = record.memory
    kinds = {
        "benign": study.by_source("benign_test"),
        "regenerated": study.by_prompt("test_ablated_runs"),
        "attacks": study.in_order("test_attack_artifacts"),
        "rewritten": study.in_order("test_past_tense"),
    }
    return {
        "command": "python -m recipes.embedded_guard.conversation_memory",
        "exchanges_of_a_conversation": LENGTH,
        "budget": PLAN.budget,
        "memory": {"allowance": memory.allowance, "forget": memory.forget, "limit": memory.limit},
        "calibration": {name: record.calibration[name] for name in ("n", "k", "bound")},
        "conversations": {kind: figures(courses, memory) for kind, courses in kinds.items()},
    }


class Study:
    """The margins of the shipped guard on the parts of the recipe."""

    def __init__(self) -> None:
        kept = json.loads(SUMMARY.read_text())
        self.head, self.flag_on = kept["two_stage"]["head"], kept["two_stage"]["flag_on"]
        self.found = two_stages.calibrate(
            RESULTS, self.head, self.flag_on, kept["budget"], settings=settings()
        )
        self.screen = two_stages.choose_screen(two_stages.read_part(RESULTS, "calibration", self.head))

    def margins(self, part: str) -> tuple[two_stages.FirstStage, Course]:
        own = two_stages.read_part(RESULTS, part, self.head)
        traces = two_stages.read_traces(RESULTS, part, own, self.screen)
        scores = two_stages.mixed_scores(traces, self.found.cascade, self.flag_on)
        return own, (scores - self.found.calibration.cut).tolist()

    def by_source(self, part: str) -> list[Course]:
        """Conversations of ten exchanges of one source, in the order of the part."""
        own, margins = self.margins(part)
        rows = sorted(range(len(margins)), key=lambda row: own.sources[row])
        courses = []
        for _, group in groupby(rows, key=lambda row: own.sources[row]):
            listed = list(group)
            courses += [
                listed[start : start + LENGTH] for start in range(0, len(listed) - LENGTH + 1, LENGTH)
            ]
        return [[margins[row] for row in course] for course in courses]

    def by_prompt(self, part: str) -> list[Course]:
        """One conversation for each request that has a harmful answer: all its answers, harmless ones too."""
        own, margins = self.margins(part)
        prompts = dict.fromkeys(group for group, bad in zip(own.groups, own.harmful, strict=True) if bad)
        return [
            [margin for margin, group in zip(margins, own.groups, strict=True) if group == prompt]
            for prompt in prompts
        ]

    def in_order(self, part: str) -> list[Course]:
        """Harmful exchanges, ten in a conversation."""
        own, margins = self.margins(part)
        harmful = [margin for margin, bad in zip(margins, own.harmful, strict=True) if bad]
        return [harmful[start : start + LENGTH] for start in range(0, len(harmful) - LENGTH + 1, LENGTH)]


def figures(courses: list[Course], memory: Memory) -> dict[str, Any]:
    """Count conversations, and exchanges, that are stopped without and with the memory."""
    plain = [[margin > 0 for margin in course] for course in courses]
    remembered = [stopped(course, memory) for course in courses]
    return {
        "conversations": len(courses),
        "exchanges": sum(map(len, courses)),
        **{
            name: {
                "conversations": share(sum(map(any, flags)), len(courses)),
                "exchanges": share(sum(map(sum, flags)), sum(map(len, courses))),
            }
            for name, flags in (("off", plain), ("on", remembered))
        },
    }


def stopped(course: Course, memory: Memory) -> list[bool]:
    """Judge the exchanges of a conversation one after the other, as the server does."""
    evidence, flags = 0.0, []
    for margin in course:
        flags.append(margin > -memory.lowered(evidence))
        evidence = memory.add(evidence, margin)
    return flags


def share(k: int, n: int) -> dict[str, Any]:
    low, high = clopper_pearson(k, n)
    return {
        "k": int(k),
        "share": round(k / n, 4),
        "ci": [round(float(np.float64(end)), 4) for end in (low, high)],
    }


if __name__ == "__main__":
    main()
