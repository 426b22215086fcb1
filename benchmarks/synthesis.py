"""The speed of making data: rows a second for each step of a pipeline, and memory for each row of a whole pipeline.

    python -m benchmarks.synthesis                  # both, some twenty minutes on an idle machine
    python -m benchmarks.synthesis --quick          # small; prints and writes nothing
    python -m benchmarks.synthesis --only memory --rows 10000 200000

Writes results/synthesis/throughput.json and results/synthesis/memory.json. Rows are made from seeds when they are read.
Each step runs in a pipeline of its own, so that reading, hashing and writing count. It sees rows that no step before it
has filtered. On a busy machine wall time depends on the load; CPU time is the step's own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.peak import peak_bytes
from lockgate.curation import (
    QUALITY_RULES,
    REPETITION_RULES,
    EvaluationIndex,
    find_faults,
    find_off_topic,
    find_refusal,
    leave_out,
)
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange, Message
from lockgate.synthesis import (
    Completion,
    DedupStep,
    FilterStep,
    GenerateStep,
    GenerationRequest,
    GeneratorSource,
    MapStep,
    Pipeline,
    Row,
    ScriptedGenerator,
    SplitStep,
    Step,
    StepProgress,
    derive_row,
    row_id,
)
from lockgate.synthesis.augmentations import apply_chain, draw_chain, select_augmentations

TARGET = Path(__file__).parents[1] / "results" / "synthesis"
EVALUATION_ITEMS, ANSWER_WORDS = 1000, 100
SYLLABLES = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "in")]
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "be",
    "that",
    "have",
    "with",
    "in",
    "a",
    "for",
    "it",
    "on",
    "as",
    "by",
    "from",
]
WORDS += [
    first + second + third for first in SYLLABLES for second in SYLLABLES for third in ("", *SYLLABLES[:2])
]
RULES = leave_out((*QUALITY_RULES, *REPETITION_RULES), ["words"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows; nothing is written")
    parser.add_argument(
        "--only", choices=("throughput", "memory"), help="make only these; the default is all"
    )
    parser.add_argument("--repeats", type=int, default=10, help="measurements of each step")
    parser.add_argument("--documents", type=int, default=2000, help="rows in one measurement of a step")
    parser.add_argument(
        "--rows",
        type=int,
        nargs=2,
        metavar=("FEW", "MANY"),
        default=(10_000, 200_000),
        help="sizes of the memory measurement",
    )
    parser.add_argument("--output", type=Path, default=TARGET, help="folder of the results")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak is not None:
        print(json.dumps(peak(arguments.peak)))
        return
    repeats, documents, rows = arguments.repeats, arguments.documents, arguments.rows
    if arguments.quick:
        repeats, documents, rows = 3, 200, (500, 2000)
    results: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": lambda: throughput(documents, repeats),
        "memory": lambda: memory(*rows),
    }
    for name, measure in results.items():
        if arguments.only in (None, name):
            found = measure()
            print(name, json.dumps(found), flush=True)
            if not arguments.quick:
                write(arguments.output / f"{name}.json", found)


def write(path: Path, found: dict[str, Any]) -> None:
    command = ["python", "-m", "benchmarks.synthesis", *sys.argv[1:]]
    found |= {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "provenance": collect_provenance(command, seeds={"rows": 0, "bootstrap": 0}, inputs=[]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def throughput(documents: int, repeats: int) -> dict[str, Any]:
    """Return the rows of its input that a step finishes in a second, by wall and CPU time, for each repetition."""
    blocks: dict[str, tuple[Callable[[], Step], Callable[[int], Iterator[Row]]]] = {
        **{name: (make, prompts if name == "answers" else exchanges) for name, make in BLOCKS.items()},
        "augment": (lambda: MapStep("augment", disguise), exchanges),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in blocks}
    measure("split", BLOCKS["split"](), exchanges, 50)
    evaluation_index(), augmentations()
    # Steps take turns, so that a busy minute slows all of them.
    for _ in range(repeats):
        for name, (make, rows) in blocks.items():
            samples[name].append(measure(name, make(), rows, documents))
    return {
        "documents": documents,
        "answer_words": ANSWER_WORDS,
        "evaluation_items": EVALUATION_ITEMS,
        "blocks": {name: summarise(documents, values) for name, values in samples.items()},
    }


def measure(name: str, block: Step, rows: Callable[[int], Iterator[Row]], count: int) -> tuple[float, float]:
    """Return wall and CPU seconds from the step's input on disk to its output on disk."""
    ends: dict[str, tuple[float, float]] = {}

    def note(progress: StepProgress) -> None:
        ends[progress.step] = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        Pipeline([FilterStep("before", keep), block], folder, progress=note).run(list(rows(count)))
    wall, cpu = (end - start for start, end in zip(ends["before"], ends[name], strict=True))
    return wall, cpu


def summarise(documents: int, samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = np.array(samples).T
    rates = documents / wall
    random = np.random.default_rng(0)
    medians = np.median(random.choice(rates, (2000, len(rates))), axis=1)
    return {
        "documents_per_s": round(float(np.median(rates)), 1),
        "ci": [round(float(value), 1) for value in np.quantile(medians, (0.025, 0.975))],
        "cpu_ms_per_document": round(float(np.median(cpu / documents)) * 1000, 4),
        "repeats": len(samples),
    }


def memory(few: int, many: int) -> dict[str, Any]:
    """Measure peak memory of the whole pipeline at two sizes, each in its own process.

    The difference is the cost of the additional rows.
    """
    sizes = []
    for rows in (few, many):
        command = [sys.executable, "-m", "benchmarks.synthesis", "--peak", str(rows)]
        sizes.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    grown = sizes[1]["peak_bytes"] - sizes[0]["peak_bytes"]
    return {"blocks": list(BLOCKS), "sizes": sizes, "bytes_per_row": round(grown / (many - few))}


def peak(rows: int) -> dict[str, Any]:
    start, highest = time.process_time(), {}
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(
            [make() for make in BLOCKS.values()],
            folder,
            progress=lambda progress: highest.update({progress.step: peak_bytes()}),
        )
        steps = pipeline.run(prompts(rows)).steps
    return {
        "rows": rows,
        "rows_out": steps[-1].rows_out,
        "peak_bytes": peak_bytes(),
        # The peak at the end of each step shows which one sets it.
        "peak_bytes_after": highest,
        "cpu_s": round(time.process_time() - start, 1),
    }


def keep(row: Row) -> None:
    """Keep every row."""


def draw_words(rng: Random, count: int) -> list[str]:
    """Draw words roughly by Zipf's law: the logarithm of the rank is uniform.

    Common words come first, for the quality rules.
    """
    return [WORDS[min(int(len(WORDS) ** rng.random()), len(WORDS) - 1)] for _ in range(count)]


def question(number: int) -> str:
    """Make a question. One in ten repeats an earlier question with one word changed."""
    again = number % 10 == 9
    words = draw_words(Random(f"question/{number - 9 if again else number}"), 30)
    if again:
        words[15] = "changed"
    return " ".join(words).capitalize() + "?"


def answer(prompt: str, number: int) -> str:
    """Make an answer. Of a hundred, three refuse, five repeat themselves and one contains an evaluation item."""
    rng = Random(f"answer/{number}")
    kind = number % 100
    if kind < 3:
        return "I'm sorry, but I can't help with that. " + " ".join(draw_words(rng, 20)) + "."
    if kind < 8:
        return " ".join(draw_words(rng, 5) * (ANSWER_WORDS // 5)) + "."
    words = [*prompt.rstrip("?").split()[:8], *draw_words(rng, ANSWER_WORDS)]
    if kind == 8:
        words[20:20] = item(number % EVALUATION_ITEMS).messages[0].content.split()
    sentences = (" ".join(words[at : at + 12]).capitalize() for at in range(0, len(words), 12))
    return ". ".join(sentences) + "."


def prompts(count: int) -> Iterator[Exchange]:
    for number in range(count):
        meta = {"number": number}
        yield Exchange((Message("user", question(number)),), category="stage-magic", source="made", meta=meta)


def exchanges(count: int) -> Iterator[Exchange]:
    for row in prompts(count):
        text = answer(row.messages[0].content, row.meta["number"])
        messages = (*row.messages, Message("assistant", text))
        meta = {**row.meta, "duplicate_group": str(row.meta["number"])}
        yield Exchange(messages, 1.0, row.category, row.source, meta)


def item(number: int) -> Exchange:
    words = draw_words(Random(f"item/{number}"), 40)
    return Exchange((Message("user", " ".join(words)),), source="evaluation")


@cache
def evaluation_index() -> EvaluationIndex:
    return EvaluationIndex([("made.jsonl", map(item, range(EVALUATION_ITEMS)))])


@cache
def augmentations() -> list[Any]:
    return select_augmentations()


def ask(row: Row, seed: int) -> GenerationRequest:
    # The script finds its answer by this number.
    return GenerationRequest(row.messages, 200, seed=row.meta["number"], purpose="answer")


def read(row: Row, completion: Completion) -> Row:
    messages = (*row.messages, Message("assistant", completion.text))
    return derive_row(row, "answers", messages=messages, label=1.0)


def make_script() -> ScriptedGenerator:
    return ScriptedGenerator(lambda request: answer(request.messages[0].content, request.seed))


def quality_fault(row: Row) -> str | None:
    faults = find_faults(row.messages[-1].content, RULES)
    return faults[0].rule if faults else None


def answer_fault(row: Row) -> str | None:
    prompt, text = row.messages[0].content, row.messages[-1].content
    fault = find_refusal(text) or find_off_topic(prompt, text)
    return fault.rule if fault else None


def leak(row: Row) -> str | None:
    return "leak" if evaluation_index().find_leak(row) else None


def both_texts(row: Row) -> str:
    return "\n".join(message.content for message in row.messages)


def split_keys(row: Row) -> list[str]:
    return [f"duplicates/{row.meta['duplicate_group']}", f"row/{row_id(row)}"]


def disguise(row: Row, seed: int) -> Row:
    return apply_chain(row, draw_chain(augmentations(), seed), seed)


BLOCKS: dict[str, Callable[[], Step]] = {
    "answers": lambda: GenerateStep(
        "answers", GeneratorSource("script", make_script), request=ask, parse=read
    ),
    "quality": lambda: FilterStep("quality", quality_fault),
    "answer_check": lambda: FilterStep("answer_check", answer_fault),
    "decontaminate": lambda: FilterStep("decontaminate", leak),
    "duplicates": lambda: DedupStep("duplicates", both_texts),
    "split": lambda: SplitStep("split", split_keys, {"train": 0.9, "test": 0.1}),
}


if __name__ == "__main__":
    main()
