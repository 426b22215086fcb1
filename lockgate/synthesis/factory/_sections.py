"""The sections of a plan: amounts, ways of writing, and limits of filters."""

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
    """The number of questions, and how the generator is asked for them.

    Attributes:
        harmful_per_category: questions for each harmful category.
        near_domain, out_of_scope, everyday: questions for a whole bucket, shared evenly by its entries.
        by_id: another number for the entry of this id.
        per_request: questions in one requested list.
        surplus: factor by which more questions are asked for than wanted, because filters drop some.
        composed_share: share of the questions composed from the constitution's own words, even if the
            generator writes enough. A small model leaves the subject.
        templates: `fill` composes missing questions from the constitution's own words; `off` leaves the gap.
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
    """The number of answers of each kind, and their length.

    Attributes:
        per_harmful: compliant answers to each harmful question (label 1).
        per_harmless: answers to each harmless question (label 0).
        permitted_share: share of harmful questions that also get an answer within the policy (label 0).
        refused_share: share of harmful questions that also get a refusal from templates (label 0).
        openings: whether answers begin in the constitution's words and the generator only continues them.
            This keeps a small model on its subject. An endpoint must continue a last assistant message.
        most: most generated answers in all. Above it all numbers of questions shrink alike. None: no limit.
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
    """Counterfactuals: a share of the harmful questions gets a permitted twin in nearly the same words.

    Attributes:
        share: share of the harmful questions with a twin.
        generated: share of the twins that the generator writes. The others, and those that it gets wrong, are
            composed from the question and a near-domain entry.
    """

    share: Share = 0.3
    generated: Share = 0.5


class AugmentationPlan(Settings):
    """Disguised copies of finished exchanges.

    Attributes:
        share: number of copies as a share of the plain rows.
        families: attack families in use (default: all).
        hold_out: families that only rows outside `train` may wear.
        max_characters: a longer copy is dropped.
        paraphrase_share, translation_share: copies that the generator rewords, as shares of the plain rows.
        languages: English names of languages to translate into, in turn.
        least_overlap: share of content words that a paraphrase must keep from the original.
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
    """Multi-turn attacks that the generator writes, with as many harmless dialogues.

    Attributes:
        share: share of attacks and dialogues in the data.
        least_overlap: share of content words that an attack's answer must share with a plain answer.
    """

    share: float = Field(default=0.0, ge=0, le=0.2)
    stages: int = Field(default=3, ge=1, le=8)
    least_overlap: Share = 0.15
    max_tokens: int = Field(default=200, ge=16)


class FilterPlan(Settings):
    """The limits of the filters.

    Attributes:
        min_words: fewest words of a generated answer.
        leave_out: names of Gopher's rules that don't apply. The rules are made for documents. Short answers
            break `words`, and a short repetition is no fault in fifty words.
        duplicate_threshold: Jaccard index from which two texts are the same.
        off_topic: whether questions and answers must share words with their subject.
        own_words: whether a generated question must hold a word of its own entry (harmful and near-domain
            entries).
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
    """The agreement with hand-labelled rows that a judge needs before it is used."""

    least_rows: int = Field(default=100, ge=1)
    least_agreement: Share = 0.8
    max_tokens: int = Field(default=8, ge=1)
