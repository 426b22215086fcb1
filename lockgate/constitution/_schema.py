"""The typed constitution: harmful categories, which a guard flags, and harmless ones, which must pass."""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ID_PATTERN = r"^[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*$"
VERSION_PATTERN = r"^(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)$"

Identifier = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=64)]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Severity = Literal["low", "medium", "high", "critical"]
Bucket = Literal["near_domain", "out_of_scope", "everyday"]

BUCKETS: tuple[Bucket, ...] = ("near_domain", "out_of_scope", "everyday")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HarmlessCategory(_Strict):
    """A category that must pass. `examples` are topics, not instructions."""

    id: Identifier
    title: Text
    description: Text
    examples: list[Text] = Field(default_factory=list)


class HarmfulCategory(HarmlessCategory):
    """A category that a guard flags. `severity` orders reports; it doesn't change a threshold."""

    severity: Severity


class Harmless(_Strict):
    """The harmless half in three buckets (Constitutional Classifiers, section 3 and appendix).

    Attributes:
        near_domain: harmless exchanges about the harmful topics.
        out_of_scope: unpleasant or risky exchanges that this guard does not cover.
        everyday: everything else that people ask.
    """

    near_domain: list[HarmlessCategory] = Field(default_factory=list)
    out_of_scope: list[HarmlessCategory] = Field(default_factory=list)
    everyday: list[HarmlessCategory] = Field(default_factory=list)


class Constitution(_Strict):
    """A versioned policy with a harmful and a harmless half. Ids are unique across both.

    Attributes:
        name: id of the policy.
        version: three numbers, such as `1.0.0`.
        description: the policy in a few sentences.
        refusal_message: the text that replaces a halted answer.
        harmful: categories that a guard flags.
        harmless: categories that must pass.

    Raises:
        pydantic.ValidationError: the content does not follow the schema. `load_constitution` raises
            `ConstitutionError` with file and line instead.
    """

    name: Identifier
    version: Version
    description: Text
    refusal_message: Text
    harmful: list[HarmfulCategory]
    harmless: Harmless

    @model_validator(mode="after")
    def _check_halves(self) -> Self:
        if not self.harmful or not any(self.buckets.values()):
            raise ValueError("both halves need at least one category")
        ids = [category.id for category in self.categories]
        if len(set(ids)) != len(ids):
            raise ValueError("category ids must be unique across both halves")
        return self

    @property
    def buckets(self) -> dict[Bucket, list[HarmlessCategory]]:
        """The categories of each harmless bucket, in the order of `BUCKETS`."""
        return {bucket: getattr(self.harmless, bucket) for bucket in BUCKETS}

    @property
    def categories(self) -> list[HarmlessCategory]:
        """All categories: first the harmful ones, then the harmless ones bucket by bucket."""
        return [*self.harmful, *(category for bucket in self.buckets.values() for category in bucket)]

    @property
    def category_ids(self) -> list[str]:
        """Ids of the harmful categories in the order of the file. Category heads have this order."""
        return [category.id for category in self.harmful]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the content as canonical JSON. Comments and layout don't change it."""
        content = json.dumps(self.model_dump(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8")).hexdigest()
