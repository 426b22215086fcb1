"""Step 11: train a language model as a further judge, and let it read what stage 1 asks about.

    python -m recipes.embedded_guard.language_judge --out runs/embedded

Needs `voice_rows` and the committed traces of `second_stage`. An exchange classifier (low-rank adapters on the top
blocks of the backbone) learns from the rows of `voice_train.jsonl` that matter to a second stage:

- every row of a source that holds harm, and every row of `data/near_policy`;
- of the others, those that a text baseline finds most harmful which was fitted on the other half of the prompts.

The backbone's own answers are left out, since their text is not kept. Answers are cut at a length that depends on the
row's id alone, so that the prompt stays in the row and both labels have the same lengths.

The classifier judges the blocks that the guard's screen asks about, with the shipped drift. Its verdicts become the voice
`language` of the committed traces; no other block has one. `language_figures` says what the judge gains. Training and
reading take an hour on two cores. Both resume. How the model behind the committed verdicts was trained is in
`results/embedded_guard/language_model.json`; its weights are not committed.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Backbone
from lockgate.cascade import Cascade, simulate
from lockgate.classifiers import ExchangeClassifier
from lockgate.classifiers.text import TextBaseline, TextBaselineConfig
from lockgate.constitution import load_constitution
from lockgate.exchanges import Exchange, Message, prompt_group, read_exchanges
from lockgate.guards import Ask, ClassifierStage, Conversation, VerdictScheduler
from lockgate.tables import BlockTrace, ScoresTable
from lockgate.training import ClassifierConfig, train_classifier
from recipes.embedded_guard import two_stages
from recipes.embedded_guard.second_stage import RESULTS, C, choose_rows
from recipes.embedded_guard.two_stages import SETTINGS, Screen
from recipes.steps import reporter, step_parser

VOICE = "language"
# The answers of these tests were not kept, so no new judge can read them.
UNREAD = ("test_own_sgbench",)
PARTS = tuple(part for part in two_stages.PARTS if part not in UNREAD)
HARDEST = 1400
# Answer tokens of a training row at most: from SHORTEST on, by its id.
SHORTEST, LONGEST = 96, 256
# Rate and step as found for few training tokens (LOG.md, "how the exchange classifier is trained").
CONFIG = ClassifierConfig(
    layers=12, rank=16, max_tokens=272, cuts=4, tokens=400_000, harmful_share=0.35, tokens_per_step=1024,
    lr=1.5e-3,
)  # fmt: skip
# Conversations that wait for their verdicts together, and the tokens that they hold.
GROUP, KV_TOKENS = 64, 24_576


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder with the parts of the other steps")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="read only these")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    backbone = Backbone.load("embedded")
    classifier = trained(arguments.out, backbone)
    write_record(classifier, RESULTS)
    head = json.loads((RESULTS / "choice.json").read_text())["head"]
    settings = json.loads((RESULTS / "two_stage" / SETTINGS).read_text())
    screen = two_stages.choose_screen(two_stages.read_part(RESULTS, "calibration", head))
    cascade = Cascade(
        screen.escalate, np.inf, 0.5, settings["stride"], settings["calm_blocks"], drift=settings["drift"]
    )
    for part in arguments.parts:
        first = two_stages.read_part(RESULTS, part, head)
        read_part(classifier, part, first, screen, cascade, arguments.out)


def training_rows(rows: Sequence[Exchange], backbone: Backbone) -> list[Exchange]:
    """Return the rows that the classifier learns from, with cut answers."""
    kept = [row for row in rows if not row.source.startswith("own_")]
    sources = {row.source for row in kept if (row.label or 0) >= 0.5} | {"near_policy"}
    harmfulness = crossed_scores(kept)
    easy = [number for number, row in enumerate(kept) if row.source not in sources]
    hardest = set(sorted(easy, key=lambda number: -harmfulness[number])[:HARDEST])
    return [
        shortened(row, backbone)
        for number, row in enumerate(kept)
        if row.source in sources or number in hardest
    ]


def crossed_scores(rows: Sequence[Exchange]) -> NDArray[np.float64]:
    """Return the logit of each row [N] from a text baseline that has not seen its prompt."""
    groups = [str(row.meta.get("question") or prompt_group(row)) for row in rows]
    names = sorted(set(groups))
    Random(0).shuffle(names)
    half = set(names[: len(names) // 2])
    sides = np.array([group in half for group in groups])
    logits = np.zeros(len(rows))
    for side in (True, False):
        fitted, scored = (np.flatnonzero(own).tolist() for own in (sides == side, sides != side))
        config = TextBaselineConfig(cs=(C,), folds=2)
        text = TextBaseline.fit([rows[i] for i in fitted], [groups[i] for i in fitted], config)
        logits[scored] = text.decision_function([rows[i] for i in scored])
    return logits


def shortened(row: Exchange, backbone: Backbone) -> Exchange:
    """Return the exchange with the first tokens of its answer."""
    chat = backbone.render(row.messages)
    answer = chat.token_ids[chat.answer_start : chat.answer_end]
    place = int(hashlib.sha256(f"cut{row.id}".encode()).hexdigest(), 16)
    size = SHORTEST + place % (LONGEST - SHORTEST)
    if len(answer) <= size:
        return row
    messages = (*row.messages[:-1], Message("assistant", backbone.decode(answer[:size])))
    return Exchange(messages, row.label, row.category, row.source, dict(row.meta))


def trained(out: Path, backbone: Backbone) -> ExchangeClassifier:
    """Return the classifier of `voice_train.jsonl`. It is trained once, and an interrupted run goes on."""
    folder = out / VOICE
    if not folder.exists():
        rows = training_rows(list(read_exchanges(out / "voice_train.jsonl")), backbone)
        made = train_classifier(
            backbone,
            rows,
            CONFIG,
            constitution=load_constitution("general-harms"),
            checkpoint=out / f"{VOICE}.state",
            report=reporter("train"),
        )
        made.save(folder)
    return ExchangeClassifier.load(folder, backbone)


def write_record(classifier: ExchangeClassifier, results: Path) -> None:
    """Write how the classifier was trained. Its weights are not committed."""
    content = {
        "command": "python -m recipes.embedded_guard.language_judge",
        "sha256": classifier.sha256,
        "training": classifier.record.training,
    }
    (results / "language_model.json").write_text(json.dumps(content, indent=1) + "\n")


def read_part(
    classifier: ExchangeClassifier,
    part: str,
    first: two_stages.FirstStage,
    screen: Screen,
    cascade: Cascade,
    out: Path,
) -> None:
    """Write the classifier's verdicts into the committed trace of a part, unless it has them already."""
    path = RESULTS / "two_stage" / f"{part}.blocks.parquet"
    stamp, trace = out / f"{part}.{VOICE}", BlockTrace.read(path)
    if stamp.exists() and stamp.read_text() == classifier.sha256 and VOICE in trace.voices:
        return
    wanted = [first.ids[row] for row in screen.suspects(first)]
    if ScoresTable.read(path.with_name(f"{part}.parquet")).ids != wanted:
        raise SystemExit(f"{path}: has other exchanges; run second_stage first")
    asked = [judged_blocks(trace, number, cascade) for number in range(len(wanted))]
    verdicts = np.full(len(trace), np.nan, dtype=np.float32)
    rows = choose_rows(out / f"{part}.jsonl", wanted)
    for line, logit in verdicts_of(classifier, rows, trace, asked):
        verdicts[line] = logit
    replace(trace, voices={**trace.voices, VOICE: verdicts}).write(path)
    stamp.write_text(classifier.sha256)
    print(f"{part}: {sum(map(len, asked))} blocks of {sum(map(bool, asked))} exchanges", flush=True)


def judged_blocks(trace: BlockTrace, number: int, cascade: Cascade) -> list[int]:
    """Return the lines of the trace that the screen asks about in one exchange.

    Which blocks these are doesn't depend on the verdicts.
    """
    own = trace.of(number)
    silent = np.zeros(own.stop - own.start)
    return [
        own.start + block
        for block in simulate(trace.probe[own], silent, cascade, flag_on="answer").judged_blocks
    ]


def verdicts_of(
    classifier: ExchangeClassifier, rows: Sequence[Exchange], trace: BlockTrace, asked: Sequence[list[int]]
) -> Iterator[tuple[int, float]]:
    """Yield each asked line of the trace and its verdict, by the code that serves."""
    waiting = iter([(row, lines) for row, lines in zip(rows, asked, strict=True) if lines])
    lines_left: dict[Conversation, list[int]] = {}
    with VerdictScheduler(ClassifierStage(classifier).open_verdicts(KV_TOKENS)) as scheduler:
        while True:
            while len(lines_left) < GROUP and (following := next(waiting, None)):
                lines_left[conversation(classifier, following[0])] = list(following[1])
            if not lines_left:
                return
            asks = [
                Ask(talk, talk.chat.answer_start + int(trace.end[lines[0]]))
                for talk, lines in lines_left.items()
            ]
            for given in scheduler.step(asks):
                if given.error is not None:
                    raise given.error
                if given.logit is None:
                    continue
                talk = given.ask.conversation
                yield lines_left[talk].pop(0), given.logit
                if not lines_left[talk]:
                    scheduler.forget(talk)
                    del lines_left[talk]


def conversation(classifier: ExchangeClassifier, row: Exchange) -> Conversation:
    chat = classifier.render(row.messages)
    return Conversation(chat, chat.answer_end, list(chat.token_ids[chat.answer_start : chat.answer_end]))


if __name__ == "__main__":
    main()
