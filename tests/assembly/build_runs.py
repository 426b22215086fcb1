"""Builds on a tiny backbone, from a script that writes about stage magic."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "synthesis"))

from factory_runs import POLICY, scripted_source, tiny_plan

from lockgate.assembly import BuildInputs, BuildResult, TrainingPlan, build_guard
from lockgate.backbones import Backbone
from lockgate.classifiers.text import TextBaselineConfig
from lockgate.exchanges import Exchange, Message, write_exchanges

__all__ = ["POLICY", "QUICK", "build", "labelled_row", "traffic_row", "write_rows"]

QUICK = TrainingPlan(
    epochs=3,
    learning_rate=0.01,
    least_rows=10,
    reading="float32",
    folds=0,
    baseline=TextBaselineConfig(bits=12, cs=(3.0,), folds=2),
)
_SYLLABLES = ("ka", "lo", "mi", "bru", "or", "te", "sha", "wen")


def words(seed: str, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.sample(_SYLLABLES, 3)) for _ in range(count))


def traffic_row(number: int) -> Exchange:
    prompt = f"How does the {words(f'q{number}', 7)} work at number {number}?"
    return Exchange(
        (Message("user", prompt), Message("assistant", words(f"a{number}", 9))), None, None, "shop"
    )


def labelled_row(number: int, label: float) -> Exchange:
    prompt = f"Say something on {words(f'p{number}', 6)}, case {number}."
    answer = f"boat {number} " + "boat " * 12 if label else words(f"d{number}", 10)
    category = POLICY.category_ids[number % 3] if label else None
    return Exchange((Message("user", prompt), Message("assistant", answer)), label, category, "mine")


def write_rows(path: Path, rows: list[Exchange]) -> Path:
    write_exchanges(path, rows)
    return path


def build(folder: Path, backbone: Path, training: TrainingPlan = QUICK, **options: Any) -> BuildResult:
    script: Callable[..., Any] | None = options.pop("script", None)
    inputs = BuildInputs(
        constitution=POLICY,
        generator=scripted_source() if script is None else scripted_source(script),
        backbone=Backbone.load(backbone),
        factory=options.pop("factory", None) or tiny_plan(queries={"harmful_per_category": 5}),
        training=training,
        **{name: options.pop(name) for name in list(options) if name not in ("out", "work")},
    )
    return build_guard(inputs, options.get("out", folder / "guard"), work=options.get("work"))
