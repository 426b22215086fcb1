"""The sections of a plan: how much of what, made how, filtered by which limits."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lockgate.curation import DOCUMENT_RULES, leave_out
from lockgate.errors import ConfigError
from lockgate.synthesis.augmentations import select_augmentations

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryPlan(Settings):
    """How many questions, and how they are asked for.

    Attributes:
        harmful_per_category: questions for each harmful category.
        near_domain, out_of_scope, everyday: questions for a whole bucket, shared evenly by its entries.
        by_id: another number for the entry of this id.
        per_request: questions asked for in one list.
        surplus: times as many are asked for as are wanted, since filters drop some.
        composed_share: of the questions wanted, those composed from the constitution's own words even where
            the generator writes enough: a small model wanders off.
        templates: `fill` composes what is missing from the constitution's own words; `off` leaves the gap.
    """

    harmful_per_category: Count = 70
    near_domain: Count = 300
    out_of_scope: Count = 120
    everyday: Count = 160
    by_id: dict[str, Count] = Field(default_factory=dict)
    per_request: int = Field(default=8, ge=1, le=50)
    surplus: float = Field(default=1.5, ge=1, le=10)
    max_tokens: int = Field(default=200, ge=16)
    temperature: float = Field(default=0.9, ge=0, le=2)
    composed_share: Share = 0.0
    templates: Literal["fill", "off"] = "fill"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.composed_share and self.templates == "off":
            raise ValueError("composed_share: needs templates: fill")
        return self


class AnswerPlan(Settings):
    """How many answers of which kind, and how long.

    Attributes:
        per_harmful: compliant answers to each harmful question (label 1).
        per_harmless: answers to each harmless question (label 0).
        permitted_share: of the harmful questions, those that also get an answer that stays within the policy.
        refused_share: of the harmful questions, those that also get a refusal from templates (label 0).
        openings: whether answers are begun in the constitution's words and only continued by the generator. A
            small model then knows what it is about; an endpoint must continue a last assistant message.
        most: generated answers in all; above it every number of questions shrinks alike. None: no limit.
    """

    per_harmful: int = Field(default=1, ge=0, le=16)
    per_harmless: int = Field(default=1, ge=0, le=16)
    permitted_share: Share = 0.2
    refused_share: Share = 0.4
    max_tokens: int = Field(default=80, ge=8)
    temperature: float = Field(default=0.8, ge=0, le=2)
    attempts: int = Field(default=2, ge=1, le=8)
    openings: bool = False
    most: int | None = Field(default=None, ge=1)


class PairPlan(Settings):
    """Counterfactuals: `share` of the harmful questions get a permitted twin in nearly the same words.

    `generated` of the twins are first asked of the generator, the others (and those it gets wrong) are
    composed from the question and a near-domain entry.
    """

    share: Share = 0.3
    generated: Share = 0.5


class AugmentationPlan(Settings):
    """Disguised copies of finished exchanges, `share` as many as there are plain ones.

    Attributes:
        families: families used (default: all); `hold_out`: those that only rows outside `train` may wear.
        max_characters: a copy that is longer is given up.
        paraphrase_share, translation_share: of all plain rows, copies reworded by the generator.
        languages: English names of languages to translate into, in turn.
        least_overlap: content words that a reworded text must share with the original (paraphrases only).
    """

    share: Share = 0.25
    families: list[str] | None = None
    hold_out: list[str] = Field(default_factory=list)
    max_depth: int = Field(default=2, ge=1, le=3)
    max_characters: int = Field(default=4000, ge=200)
    paraphrase_share: Share = 0.0
    translation_share: Share = 0.0
    languages: list[str] = Field(default_factory=lambda: ["Spanish", "French", "German"])
    least_overlap: Share = 0.25

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            select_augmentations(families=self.families, hold_out=self.hold_out)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if self.translation_share and not self.languages:
            raise ValueError("languages: empty; name one, or set translation_share to 0")
        return self


class RedTeamPlan(Settings):
    """Multi-turn attacks written by the generator: `share` of the mix, and as many harmless dialogues.

    `least_overlap`: content words that an attack's answer must share with a plain answer to its question.
    """

    share: float = Field(default=0.0, ge=0, le=0.2)
    stages: int = Field(default=3, ge=1, le=8)
    least_overlap: Share = 0.15
    max_tokens: int = Field(default=200, ge=16)


class FilterPlan(Settings):
    """What is dropped.

    Attributes:
        min_words: of a generated answer.
        leave_out: names of Gopher's rules that don't apply. They are made for documents: short answers break
            `words`, and in fifty words three equal ones in a row twice are no repetition.
        duplicate_threshold: Jaccard index from which two texts are the same.
        off_topic: whether questions and answers must share words with their subject.
        own_words: whether a generated question must hold a word of its own entry, not just none of another's
            (harmful and near-domain entries).
    """

    min_words: int = Field(default=12, ge=1)
    leave_out: list[str] = Field(default_factory=lambda: ["words"])
    duplicate_threshold: float = Field(default=0.7, gt=0, le=1)
    off_topic: bool = True
    own_words: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            leave_out(DOCUMENT_RULES, self.leave_out)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self


class JudgePlan(Settings):
    """When a judge deserves trust: its agreement with rows that somebody labelled by hand."""

    least_rows: int = Field(default=100, ge=1)
    least_agreement: Share = 0.8
    max_tokens: int = Field(default=8, ge=1)
