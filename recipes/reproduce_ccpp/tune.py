"""Before step 2: try training settings with a fifth of the tokens, and judge them on development exchanges.

    python -m recipes.reproduce_ccpp.tune --out runs/four_systems --threads 1

Only short exchanges of `dev.jsonl` are used. Each try takes about ten minutes. Results go to
`results/four_systems/tuning.json`. Intervals of the area under the curve follow Hanley and McNeil.
"""

import json
import math
from random import Random
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier, score_blocks
from lockgate.constitution import load_constitution
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.training import ClassifierConfig, train_classifier
from recipes.reproduce_ccpp.places import Places, make_parser, read_places

TOKENS = 120_000
LONGEST = 1600
SIZES = {True: 70, False: 200}
TRIES: dict[str, dict[str, Any]] = {
    "steps of 2048 tokens at 1e-3": {"lr": 1e-3, "tokens_per_step": 2048},
    "steps of 1024 tokens at 2e-3": {"lr": 2e-3, "tokens_per_step": 1024},
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="number of threads of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    places = read_places(arguments)
    target = places.results / "tuning.json"
    found = json.loads(target.read_text()) if target.exists() else {}
    for name, changes in TRIES.items():
        if name not in found:
            found[name] = attempt(places, changes)
            target.write_text(json.dumps(found, indent=1) + "\n")


def attempt(places: Places, changes: dict[str, Any]) -> dict[str, Any]:
    """Train with these settings and judge the development sample by its highest verdict after an answer token."""
    config = ClassifierConfig(
        tokens=TOKENS, max_tokens=448, rank=8, alpha=16.0, dtype="bfloat16", harmful_share=0.35, **changes
    )
    backbone, policy = Backbone.load(places.backbone), load_constitution("general-harms")
    train = list(read_exchanges(places.out / "train.jsonl"))
    classifier = train_classifier(
        backbone, train, config, constitution=policy, report=lambda line: print(line, flush=True)
    )
    return {"settings": changes, "tokens": TOKENS} | judge(classifier, sample(places))


def sample(places: Places) -> list[Exchange]:
    """Return some short development exchanges of each label."""
    rows = list(read_exchanges(places.out / "dev.jsonl"))
    Random(0).shuffle(rows)
    short = [row for row in rows if sum(len(message.content) for message in row.messages) < LONGEST]
    return [
        row
        for harmful, size in SIZES.items()
        for row in [row for row in short if ((row.label or 0) >= 0.5) is harmful][:size]
    ]


def judge(classifier: ExchangeClassifier, rows: list[Exchange]) -> dict[str, Any]:
    """Return the area under the curve over the sample, with its interval."""
    scored = [
        (score.exchange.label or 0, max(score.logits[1:] or score.logits))
        for score in score_blocks(classifier, rows)
    ]
    labels, values = np.array(scored).T
    n, m = int((labels >= 0.5).sum()), int((labels < 0.5).sum())
    area = float(roc_auc_score(labels >= 0.5, values))
    width = 1.96 * spread(area, n, m)
    interval = [round(max(0.0, area - width), 4), round(min(1.0, area + width), 4)]
    return {"n_harmful": n, "n_harmless": m, "auroc": round(area, 4), "auroc_ci": interval}


def spread(area: float, n: int, m: int) -> float:
    """Return the standard error of an area under the curve of n positive and m negative rows."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (one - area**2) + (m - 1) * (two - area**2)) / (n * m)
    return math.sqrt(variance)


if __name__ == "__main__":
    main()
