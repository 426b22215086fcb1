"""The parts of the study that are scored, and the models that read them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lockgate.exchanges import Exchange, read_exchanges, write_exchanges


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a file that a data step has written.

    Attributes:
        file: name without `.jsonl`.
        rows: number of first rows to use. None uses all.
        family: family of stand-ins: the attacks of one `meta.family` and their twins, without refusals.
    """

    file: str
    rows: int | None = None
    family: str | None = None

    def read(self, folder: Path) -> Iterator[Exchange]:
        """Read the rows, in file order."""
        rows: Iterator[Exchange] = iter(read_exchanges(folder / f"{self.file}.jsonl"))
        if self.family is not None:
            rows = (row for row in rows if row.meta.get("family") == self.family and "twin" in row.meta)
        return itertools.islice(rows, self.rows)

    def path(self, folder: Path) -> Path:
        """Return a file with these rows only. It is written if they are not the whole file."""
        if self.rows is None and self.family is None:
            return folder / f"{self.file}.jsonl"
        name = ".".join(str(part) for part in (self.file, self.family, self.rows) if part is not None)
        path = folder / f"{name}.jsonl"
        write_exchanges(path, self.read(folder))
        return path


STRIDE = 8
# Longer than any answer: one verdict before it, one at its end.
WHOLE = 1_000_000
HARMFUL = {
    "harmful_saferlhf_mini": Part("test_saferlhf_mini"),
    "harmful_own_sgbench": Part("test_own_sgbench"),
    "harmful_gptfuzz": Part("test_gptfuzz"),
    "harmful_adaptive_attacks": Part("test_adaptive_attacks"),
    "long_gptfuzz": Part("long_gptfuzz"),
    "long_adaptive_attacks": Part("long_adaptive_attacks"),
}
# All parts that the four systems read.
FULL = {
    "dev": Part("dev"),
    **HARMFUL,
    "hard_benign": Part("hard_benign"),
    "benign_test": Part("benign_test"),
    "calibration": Part("calibration"),
}
# Models that are compared at 1 % only need fewer rows.
SOME = {**HARMFUL, "benign_test": Part("benign_test", 500), "calibration": Part("calibration", 1000)}
# The stand-ins, ordinary traffic for cuts at 1 %, and other ordinary traffic to measure the flagged share.
DISGUISED = {
    "disguise_plain": Part("disguise_test", family="plain"),
    "disguise_obfuscation": Part("disguise_test", family="obfuscation"),
    "disguise_reconstruction": Part("disguise_test", family="reconstruction"),
    "benign_test": Part("benign_test", 400),
    "calibration": Part("calibration", 800),
}


@dataclass(frozen=True, slots=True)
class Model:
    """A folder of tables.

    Attributes:
        classifier: the trained classifier that made it.
        parts: parts that it reads.
        probe: whether a guard's probe reads along, by the code that serves. Other models are classifiers alone.
        stride: answer tokens between two verdicts.
    """

    classifier: str
    parts: dict[str, Part]
    probe: bool = False
    stride: int = STRIDE


MODELS = {
    "probe_exchange": Model("exchange", FULL, probe=True),
    "input": Model("input", FULL),
    "output": Model("output", FULL),
    "small": Model("small", FULL),
    # Soft labels for probes (teach.py): the training exchanges.
    "teacher": Model("exchange", {"train": Part("train")}, stride=WHOLE),
    "medium": Model("medium", SOME),
    "value": Model("value", SOME),
    "disguise_probe_exchange": Model("disguise_exchange", DISGUISED, probe=True),
    "disguise_input": Model("disguise_input", DISGUISED),
    "disguise_output": Model("disguise_output", DISGUISED),
}
