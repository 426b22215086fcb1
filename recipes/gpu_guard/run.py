"""Make a guard for a local model and measure it, in one command.

    python -m recipes.gpu_guard.run --backbone PATH --output DIR --exchanges LABELLED.jsonl --traffic TRAFFIC.jsonl
    python -m recipes.gpu_guard.run --backbone embedded --output DIR --smoke --dtype bfloat16

Runs `lockgate train`, `calibrate`, `score` and `serve` and times decoding, each in a process of its own. Finished
steps are kept: the same command goes on after an interruption. Figures are in DIR/result.json, without text.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockgate.durable import Mark, file_sha256, hash_path, open_atomic
from recipes.gpu_guard.serving import serve_once
from recipes.gpu_guard.smoke import BUDGET, POLICY, write_smoke
from recipes.steps import reporter, step_parser

report = reporter("gpu_guard")


def main() -> None:
    arguments = _parser().parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if arguments.smoke:
        arguments.exchanges, arguments.traffic = write_smoke(output / "data")
        arguments.constitution, arguments.budget = POLICY, BUDGET
    elif arguments.exchanges is None or arguments.traffic is None:
        raise SystemExit("--exchanges and --traffic: give both files, or --smoke for generated ones")
    run = Run(arguments)
    content = {
        "command": "python -m recipes.gpu_guard.run" + (" --smoke" if arguments.smoke else ""),
        "backbone": Path(arguments.backbone).name,
        "asked": {"device": arguments.device, "dtype": arguments.dtype},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        **run.all_steps(),
    }
    with open_atomic(output / "result.json") as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    report(f"figures in {output / 'result.json'}")


def _parser() -> argparse.ArgumentParser:
    parser = step_parser(__doc__)
    parser.add_argument("--backbone", required=True, help="folder of a causal language model, or `embedded`")
    parser.add_argument("--output", type=Path, required=True, help="folder for the guard and the figures")
    parser.add_argument("--exchanges", type=Path, help="labelled exchanges to train on and to score")
    parser.add_argument("--traffic", type=Path, help="benign traffic that sets the threshold")
    parser.add_argument("--constitution", default="general-harms", help="policy of the labels")
    parser.add_argument("--budget", type=float, default=0.001, help="refusal budget")
    parser.add_argument("--classifier", action="store_true", help="also train a second stage")
    parser.add_argument("--head", default="verdict", help="of the second stage: verdict or value")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="streams to time")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each stream to time")
    parser.add_argument("--pairs", type=int, default=5, help="timings with and without the guard")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the probe's training")
    parser.add_argument(
        "--max-tokens", type=int, default=1024, help="training reads the last tokens of an exchange"
    )
    parser.add_argument("--smoke", action="store_true", help="generated exchanges about stage magic")
    return parser


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the recipe. Each step leaves a mark, so that it is not done twice."""

    arguments: argparse.Namespace

    def all_steps(self) -> dict[str, Any]:
        """Run the steps in order and return their figures."""
        given, folder = self.arguments, self.arguments.output
        inputs = [file_sha256(given.exchanges), file_sha256(given.traffic)]
        place = ["--backbone", given.backbone, "--device", given.device, "--dtype", given.dtype]
        key = [*place, *inputs, given.constitution, given.epochs, given.max_tokens, given.budget]
        key += [given.classifier, given.head]
        found: dict[str, Any] = {}
        found["train"] = self._step("train", ["probe"], key, lambda: self._train(place))
        found["classifier"] = None
        if given.classifier:
            found["classifier"] = self._step(
                "classifier", ["classifier"], key, lambda: self._train_classifier(place)
            )
        found["calibrate"] = self._step("calibrate", ["guard"], key, lambda: self._calibrate(place))
        guard = hash_path(folder / "guard")
        found["score"] = self._step("score", ["scores.parquet"], [*key, guard], lambda: self._score(place))
        found["serve"] = self._step("serve", [], [*key, guard], lambda: serve_once(self._serving(place)))
        timed = [given.streams, given.tokens, given.pairs]
        found["bench"] = self._step("bench", [], [*key, guard, *timed], lambda: self._bench(place))
        return found

    def _step(
        self, name: str, files: Sequence[str], key: Sequence[object], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        folder: Path = self.arguments.output
        place, asked = folder / f"{name}.done.json", json.loads(json.dumps([name, *key]))
        mark = Mark.read(place)
        if mark is not None and mark.key == asked and mark.stands(folder):
            report(f"{name}: done before")
            return dict(mark.content)
        place.unlink(missing_ok=True)
        report(f"{name}: begins")
        start = time.monotonic()
        content = {**work(), "seconds": round(time.monotonic() - start, 1)}
        Mark(asked, {file: hash_path(folder / file) for file in files}, content).write(place)
        report(f"{name}: {content['seconds']} s")
        return content

    def _train(self, place: list[str]) -> dict[str, Any]:
        given = self.arguments
        made = lockgate(
            *("train", "probe", "--input", given.exchanges, "--output", given.output / "probe"),
            *("--constitution", given.constitution, "--epochs", given.epochs),
            *("--max-tokens", given.max_tokens, *place),
        )
        return {"exchanges": made["exchanges"]}

    def _train_classifier(self, place: list[str]) -> dict[str, Any]:
        given = self.arguments
        made = lockgate(
            *("train", "classifier", "--input", given.exchanges, "--output", given.output / "classifier"),
            *("--constitution", given.constitution, "--layers", 2 if given.smoke else 10),
            *("--head", given.head),
            *("--max-tokens", given.max_tokens, *place),
        )
        return {name: made[name] for name in ("tokens_seen", "steps")}

    def _calibrate(self, place: list[str]) -> dict[str, Any]:
        given = self.arguments
        # The share of the mixture is fixed: a search would need labelled exchanges that nothing trained on.
        second = ("--classifier", given.output / "classifier", "--weight", 0.5) if given.classifier else ()
        made = lockgate(
            *("calibrate", given.output / "probe", "--input", given.traffic, "--budget", given.budget),
            *("--output", given.output / "guard", *second, *place),
        )
        return {name: made["calibration"][name] for name in ("n", "k", "flagged", "budget", "bound")}

    def _score(self, place: list[str]) -> dict[str, Any]:
        given = self.arguments
        made = lockgate(
            *("score", given.output / "guard", "--input", given.exchanges),
            *("--output", given.output / "scores.parquet", *place),
        )
        return {name: made[name] for name in ("exchanges", "flagged", "tokens", "escalated")}

    def _serving(self, place: list[str]) -> list[str]:
        given = self.arguments
        return command(
            *("serve", "--guard", given.output / "guard", "--port", 0, "--max-streams", max(given.streams)),
            *("--decisions", given.output / "decisions.db", *place),
        )

    def _bench(self, place: list[str]) -> dict[str, Any]:
        given = self.arguments
        return read_json(
            [
                *(sys.executable, "-m", "recipes.gpu_guard.bench", "--guard", str(given.output / "guard")),
                *("--streams", *map(str, given.streams), "--tokens", str(given.tokens)),
                *("--pairs", str(given.pairs), *place),
            ]
        )


def command(*arguments: object) -> list[str]:
    """Return the command line of `lockgate` with these arguments and `--json`."""
    return [sys.executable, "-m", "lockgate", *map(str, arguments), "--json"]


def lockgate(*arguments: object) -> dict[str, Any]:
    """Run `lockgate` and return what it prints."""
    return read_json(command(*arguments))


def read_json(line: Sequence[str]) -> dict[str, Any]:
    """Run a command and return the JSON document on its standard output. Its messages are shown."""
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line[2:4])} ended with exit code {done.returncode}; see above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
