"""Step 2: the study's classifiers, all by the same recipe on the same exchanges.

    python recipes/reproduce_ccpp/train.py --out runs/four_systems            # all of them, one after the other
    python recipes/reproduce_ccpp/train.py --out runs/four_systems --only exchange

Each takes about half an hour on two cores, goes on where it was interrupted, and is not trained again while
data and settings are the same. The adapters (a few MB each) are kept in `results/four_systems/models/`.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from lockgate.backbones import Backbone
from lockgate.constitution import load_constitution
from lockgate.evaluation import collect_provenance, file_sha256
from lockgate.exchanges import read_exchanges
from lockgate.training import ClassifierConfig, train_classifier

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "results" / "four_systems" / "models"
TOKENS = 600_000


def config(name: str, **changes: object) -> ClassifierConfig:
    common = {"tokens": TOKENS, "max_tokens": 448, "rank": 8, "alpha": 16.0, "lr": 1e-3, "dtype": "bfloat16"}
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
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where dataset.py has put train.jsonl")
    parser.add_argument("--only", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    arguments = parser.parse_args()
    backbone = Backbone.load("embedded")
    source = arguments.out / "train.jsonl"
    rows = list(read_exchanges(source))
    for name in arguments.only:
        target = MODELS / name
        record = MODELS / f"{name}.json"
        inputs = {"data": file_sha256(source), "config": asdict(CONFIGS[name])}
        if record.exists() and json.loads(record.read_text())["inputs"] == json.loads(json.dumps(inputs)):
            print(f"{name}: there already", flush=True)
            continue
        started = time.monotonic()
        classifier = train_classifier(
            backbone,
            rows,
            CONFIGS[name],
            constitution=load_constitution("general-harms"),  # as the embedded probe, their first stage
            checkpoint=arguments.out / f"{name}.checkpoint.safetensors",
            report=lambda line, name=name: print(f"{name}: {line}", flush=True),
        )
        classifier.save(target)
        command = ["python", "recipes/reproduce_ccpp/train.py", "--out", "runs/four_systems", "--only", name]
        content = {
            "inputs": inputs,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "provenance": collect_provenance(command, {"training": CONFIGS[name].seed}, [source]),
        }
        record.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
