"""Step 2: train the study's classifiers, all with the same method.

    python -m recipes.reproduce_ccpp.train --out runs/four_systems            # all of them, one after the other
    python -m recipes.reproduce_ccpp.train --out runs/four_systems --only exchange

Each takes about forty minutes on two cores; the three `disguise_` classifiers together take as long. Training resumes,
and is not repeated while data and settings stay the same. Classifiers go to `--out/models/` (3 MB each). Records of
their training go to `results/four_systems/models/`.

The `disguise_` classifiers learn another policy, `stage-magic`, from `disguise_train.jsonl`. They also learn from
harmless exchanges of `train.jsonl`, because their cuts come from ordinary traffic.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from lockgate.backbones import Backbone
from lockgate.constitution import load_constitution
from lockgate.durable import file_sha256
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.training import ClassifierConfig, train_classifier
from recipes.reproduce_ccpp.places import Places, make_parser, read_places
from recipes.steps import reporter

TOKENS = 600_000
DISGUISE = "disguise_"
# Ordinary harmless exchanges in the training data of the disguise models.
ORDINARY = 300


def config(name: str, **changes: object) -> ClassifierConfig:
    # Rate, step and share were chosen on development exchanges at a fifth of the tokens; LOG.md has the figures.
    common = {
        "tokens": TOKENS, "max_tokens": 448, "tokens_per_step": 1024, "harmful_share": 0.35,
        "rank": 8, "alpha": 16.0, "lr": 2e-3, "dtype": "bfloat16",
    }  # fmt: skip
    return ClassifierConfig(name=name, **{**common, **changes})  # type: ignore[arg-type]


CONFIGS = {
    item.name: item
    for item in (
        config("exchange"),
        config("input", reads="prompt"),
        config("output", reads="answer"),
        config("small", depth=10),
        config("medium", depth=20),
        config("value", head="value"),
        # Prompts and answers alone are shorter, so fewer tokens cover about the same half of the exchanges.
        config("disguise_exchange", tokens=250_000),
        config("disguise_input", reads="prompt", tokens=130_000),
        config("disguise_output", reads="answer", tokens=120_000),
    )
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=CONFIGS,
        default=list(CONFIGS),
        help="make only these; the default is all",
    )
    arguments = parser.parse_args()
    for name in arguments.only:
        train(read_places(arguments), CONFIGS[name])


def train(places: Places, config: ClassifierConfig) -> None:
    """Train one classifier and write its record, unless both exist."""
    name = config.name
    target, record, sources = places.model(name), places.record(name), sources_of(places, name)
    inputs = {"data": " ".join(map(file_sha256, sources)), "config": asdict(config)}
    kept = json.loads(record.read_text()) if record.exists() else {}
    if target.exists() and kept.get("inputs") == json.loads(json.dumps(inputs)):
        print(f"{name}: there already", flush=True)
        return
    started = time.monotonic()
    classifier = train_classifier(
        Backbone.load(places.backbone),
        read_training(sources),
        config,
        constitution=load_constitution(policy_of(name)),
        checkpoint=places.out / f"{name}.checkpoint.safetensors",
        report=reporter(name),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(target)
    command = ["python", "-m", "recipes.reproduce_ccpp.train", "--out", "runs/four_systems", "--only", name]
    content = {
        "inputs": inputs,
        "sha256": classifier.sha256,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "provenance": collect_provenance(command, {"training": config.seed}, sources),
    }
    record.write_text(json.dumps(content, indent=1) + "\n")


def policy_of(name: str) -> str:
    """Return the constitution that a model's labels follow. It is also the policy of the first stage."""
    return "stage-magic" if name.startswith(DISGUISE) else "general-harms"


def sources_of(places: Places, name: str) -> list[Path]:
    """Return the files that a model learns from: labelled ones and, for another policy, ordinary traffic."""
    train = places.out / "train.jsonl"
    return [places.out / "disguise_train.jsonl", train] if name.startswith(DISGUISE) else [train]


def read_training(sources: list[Path]) -> list[Exchange]:
    """Read all rows of the first file and, of a second, harmless ones that are certainly not harmful requests."""
    rows = list(read_exchanges(sources[0]))
    for path in sources[1:]:
        ordinary = (
            row
            for row in read_exchanges(path)
            if row.label is not None and row.label < 0.5 and row.meta.get("harmful_request") is False
        )
        # Ids are hashes, so their order is random.
        rows += sorted(ordinary, key=lambda row: row.id)[:ORDINARY]
    return rows


if __name__ == "__main__":
    main()
