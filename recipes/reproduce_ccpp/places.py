"""The folders of the recipe's steps. All steps have the same options for them."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from recipes.steps import step_parser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "four_systems"
# The stand-in policy's probe as a guard, never shipped.
DISGUISE_GUARD = "disguise_guard"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of one run.

    Attributes:
        out: data with text, checkpoints, trained models.
        results: tables, and records of how models were trained; no text.
        backbone: backbone that the classifiers are made from.
        guard: guard whose probe is compared.
    """

    out: Path
    results: Path = RESULTS
    backbone: str = "embedded"
    guard: str = "embedded"

    def model(self, name: str) -> Path:
        """Return the folder of a trained classifier."""
        return self.out / "models" / name

    def record(self, name: str) -> Path:
        """Return the file that says how a model was trained."""
        return self.results / "models" / f"{name}.json"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of `read_places`."""
    parser = step_parser(description)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder with the parts that `dataset` has made"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for figures and tables without text"
    )
    parser.add_argument("--backbone", default="embedded", help="embedded, or the folder of a backbone")
    parser.add_argument("--guard", default="embedded", help="guard whose probe is the first stage")
    return parser


def read_places(arguments: argparse.Namespace) -> Places:
    """Return the folders that the options name."""
    return Places(arguments.out, arguments.results, arguments.backbone, arguments.guard)
