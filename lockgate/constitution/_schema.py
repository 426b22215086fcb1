"""The typed constitution: what must not come out, and what must."""

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
    """Something that must pass. `examples` are topics, as a reader would name them."""

    id: Identifier
    title: Text
    description: Text
    examples: list[Text] = Field(default_factory=list)


class HarmfulCategory(HarmlessCategory):
    """Something that must not come out. `severity` orders reports; it doesn't move a threshold."""

    severity: Severity


class Harmless(_Strict):
    """The harmless half in three buckets (Constitutional Classifiers, section 3 and appendix).

    `near_domain` touches the harmful topics and is harmless; `out_of_scope` is unpleasant or risky but not
    this guard's business; `everyday` is the rest of what people ask.
    """

    near_domain: list[HarmlessCategory] = Field(default_factory=list)
    out_of_scope: list[HarmlessCategory] = Field(default_factory=list)
    everyday: list[HarmlessCategory] = Field(default_factory=list)


class Constitution(_Strict):
    """A versioned policy with a harmful and a harmless half. Ids are unique across both.

    Raises:
        pydantic.ValidationError: `load_constitution` turns it into a `ConstitutionError` with file and line.
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
        """The harmless half by bucket, in the order of `BUCKETS`."""
        return {bucket: getattr(self.harmless, bucket) for bucket in BUCKETS}

    @property
    def categories(self) -> list[HarmlessCategory]:
        """Every category: the harmful ones first, then the harmless ones bucket by bucket."""
        return [*self.harmful, *(category for bucket in self.buckets.values() for category in bucket)]

    @property
    def category_ids(self) -> list[str]:
        """Ids of the harmful categories in the order of the file: the order of a probe's category heads."""
        return [category.id for category in self.harmful]

    @property
    def sha256(self) -> str:
        """64 hex digits over the content in canonical JSON: comments and layout of the file don't enter."""
        content = json.dumps(self.model_dump(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8")).hexdigest()
