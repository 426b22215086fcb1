"""Text baselines with random weights, and voices of a second stage on tiny backbones."""

from functools import cache

import numpy as np
from classifying import random_classifier

from lockgate.backbones import Backbone
from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.guards import ClassifierStage, Panel, TextStage, Voice


@cache
def random_text(bits: int = 8, seed: int = 0, view="exchange", excerpt: int = 0) -> TextBaseline:
    draw = np.random.default_rng(seed)
    size = 2 * 2**bits
    return TextBaseline(
        TextBaselineConfig(view=view, bits=bits, excerpt=excerpt),
        idf=(1 + draw.random(size) * 5).astype(np.float32),
        coefficients=draw.normal(size=size).astype(np.float32),
        intercept=-0.7,
        c=1.0,
    )


def two_voices(backbone: Backbone, weights=(0.6, 0.4), **options) -> Panel:
    """A panel of an exchange classifier and a text baseline."""
    stages = ClassifierStage(random_classifier(backbone, **options)), TextStage(random_text(), backbone)
    numbers = ((0.3, 1.7), (-0.2, 0.4))
    return Panel(
        tuple(
            Voice(name, stage, *number, weight)
            for name, stage, number, weight in zip(
                ("classifier", "text"), stages, numbers, weights, strict=True
            )
        )
    )
