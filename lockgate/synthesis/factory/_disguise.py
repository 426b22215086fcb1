"""Disguised copies of finished exchanges, each checked to keep its meaning."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from lockgate.errors import SynthesisError
from lockgate.exchanges import normalise_text
from lockgate.synthesis._requests import Completion, GenerationRequest
from lockgate.synthesis._rows import Reject, Row, derive_row, row_id, row_seed
from lockgate.synthesis._step import Step, StepContext
from lockgate.synthesis.augmentations import (
    GENERATED_FAMILIES,
    Augmentation,
    GeneratedAugmentation,
    apply_chain,
    draw_chain,
    paraphrase_exchange,
    select_augmentations,
    translate_exchange,
    undo_all,
)
from lockgate.synthesis.factory._brief import Brief
from lockgate.synthesis.factory._checks import AnswerCheck, QualityCheck, QuestionCheck, stem_overlap
from lockgate.synthesis.factory._roles import ATTACK, DIALOGUE, PAIR, REFUSED, answer_of, question_of, role_of

REWORD = "reword"
_TRAIN = "train"
# Some codes merge letters, so a few words don't come back. Most must.
_LEAST_KEPT = 0.8
# The share of copies outside `train` that wear a held-out family.
_HELD_SHARE = 0.5


class DisguiseStep(Step):
    """A step that yields each row, and a disguised copy of some rows. Both rows of a pair wear the same.

    Harmful and harmless rows are drawn alike, so that no disguise gives the label away. Rows of `train` never
    wear a held-out family; half of the other copies do. A copy is dropped when it is too long, or when its
    undone disguise doesn't give back the text.
    """

    def __init__(self, name: str, brief: Brief) -> None:
        super().__init__(name)
        self._brief = brief

    def config(self) -> Mapping[str, Any]:
        return self._brief.config("augmentation")

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        plan = self._brief.plan.augmentation
        known = select_augmentations(families=plan.families, hold_out=plan.hold_out)
        held = select_augmentations(families=[f for f in plan.hold_out if f not in GENERATED_FAMILIES])
        for row in rows:
            yield row
            rng = Random(f"{self._brief.plan.seed}/disguise/{_pair_key(row)}")  # noqa: S311
            if role_of(row) in (ATTACK, DIALOGUE) or rng.random() >= self._brief.plan.augmentation.share:
                continue
            wears_held = row.meta["split"] != _TRAIN and rng.random() < _HELD_SHARE and bool(held)
            copy = self._disguise(row, rng, held if wears_held else known)
            if isinstance(copy, Reject):
                context.reject(row, copy)
            else:
                yield copy

    def _disguise(self, row: Row, rng: Random, choices: Sequence[Augmentation]) -> Row | Reject:
        plan = self._brief.plan.augmentation
        if not choices:
            return Reject("no_family")
        seed = rng.getrandbits(31)
        chain = draw_chain(choices, seed, max_depth=plan.max_depth)
        if not all(augmentation.fits(row) for augmentation in chain):
            return Reject("does_not_fit")
        copy = derive_row(row, self.name, meta=_copy_meta(row, "disguised"))
        try:
            worn = apply_chain(
                copy, chain, seed, max_depth=plan.max_depth, max_characters=plan.max_characters
            )
        except SynthesisError:
            return Reject("too_long", "+".join(augmentation.name for augmentation in chain))
        if not keeps_meaning(copy, undo_all(worn)):
            return Reject("meaning_lost", "+".join(augmentation.name for augmentation in chain))
        return worn


def keeps_meaning(original: Row, undone: Row) -> bool:
    """Tell whether undoing gave the original request and answer back, up to words that a code loses."""
    if undone.messages == original.messages:
        return True
    pairs = ((question_of(original), question_of(undone)), (answer_of(original), answer_of(undone)))
    return all(
        normalise_text(one) == normalise_text(two) or stem_overlap(one, two) >= _LEAST_KEPT
        for one, two in pairs
    )


class Reworder:
    """Requests and parsers for reworded copies: paraphrases and translations of request and answer."""

    def __init__(self, brief: Brief) -> None:
        self._brief = brief
        self._check = AnswerCheck(brief)

    def copy(self, row: Row, seed: int) -> Row | list[Row]:
        """Return the row, and its copies that the generator will reword."""
        plan = self._brief.plan.augmentation
        if "augmentations" in row.meta or PAIR in row.meta or role_of(row) in (ATTACK, DIALOGUE, REFUSED):
            return row
        rng = Random(f"{self._brief.plan.seed}/reword/{seed}")  # noqa: S311
        paraphrased = rng.random() < plan.paraphrase_share and self._allowed("paraphrase", row)
        translated = rng.random() < plan.translation_share and self._allowed("translation", row)
        language = rng.choice(plan.languages) if plan.languages else ""
        ways = [""] * paraphrased + [language] * translated
        copies = [
            derive_row(row, "copies", number, meta={REWORD: way, **_copy_meta(row, "reworded")})
            for number, way in enumerate(ways)
        ]
        return [row, *copies]

    def request(self, row: Row, seed: int) -> GenerationRequest | None:
        """Return the request to reword a copy's prompt; None for every other row."""
        return replace(self._make(row, "request").request, seed=seed) if REWORD in row.meta else None

    def request_answer(self, row: Row, seed: int) -> GenerationRequest | None:
        """Return the request to reword a copy's answer; None for every other row."""
        return replace(self._make(row, "answer").request, seed=seed) if REWORD in row.meta else None

    def parse(self, row: Row, completion: Completion) -> Row | Reject:
        """Return the copy with its prompt in other words."""
        return self._read(row, completion, "request")

    def parse_answer(self, row: Row, completion: Completion) -> Row | Reject:
        """Return the copy with its answer in other words, if it still answers."""
        read = self._read(row, completion, "answer")
        if isinstance(read, Row) and not row.meta[REWORD] and (fault := self._check(read)):
            return fault
        return read

    def _allowed(self, family: str, row: Row) -> bool:
        held = family in self._brief.plan.augmentation.hold_out
        return held == (row.meta["split"] != _TRAIN) if held else True

    def _make(self, row: Row, part: Any) -> GeneratedAugmentation:  # noqa: ANN401 - a Part
        language = str(row.meta[REWORD])
        seed = row_seed(row, f"{REWORD}/{part}")
        if language:
            return translate_exchange(row, language, seed, part)
        return paraphrase_exchange(row, seed, part)

    def _read(self, row: Row, completion: Completion, part: Any) -> Row | Reject:  # noqa: ANN401
        try:
            read = self._make(row, part).parse(completion.text)
        except SynthesisError as error:
            return Reject("not_reworded", str(error))
        words = question_of if part == "request" else answer_of
        kept = stem_overlap(words(row), words(read))
        if not row.meta[REWORD] and kept < self._brief.plan.augmentation.least_overlap:
            return Reject("meaning_lost", f"{kept:.2g} of the content words kept")
        return read


class RewordedCheck:
    """The checks of the originals, for reworded copies. All other rows pass."""

    def __init__(self, brief: Brief) -> None:
        self._question = QuestionCheck(brief)
        self._quality = QualityCheck(brief)
        self._translated = QualityCheck(brief, english=False)

    def __call__(self, row: Row) -> Reject | None:
        if REWORD not in row.meta:
            return None
        if row.meta[REWORD]:
            return self._translated(row)
        return self._question(row) or self._quality(row)


def _pair_key(row: Row) -> str:
    return str(row.meta.get(PAIR, row_id(row)))


def _copy_meta(row: Row, kind: str) -> dict[str, Any]:
    return {PAIR: f"{row.meta[PAIR]}/{kind}"} if PAIR in row.meta else {}
