"""The spec of a study: which folder holds which model, which files are which part, and the settings."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lockgate.errors import ConfigError

__all__ = ["Escalation", "Names", "Share", "StudySpec"]

Share = Annotated[float, Field(gt=0, lt=1)]
Names = tuple[Annotated[str, Field(min_length=1, pattern=r"^[^/\\]+$")], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Escalation(_Strict):
    """Settings of a two-stage system.

    Attributes:
        escalation: share of benign calibration exchanges that may reach stage 2.
        lost: allowed loss for escalating less. Of the harmful development exchanges that the same mixture flags if it
            judges every block, at most this share may never reach stage 2. None: escalate the full share.
        weight: stage 1's share in the mix. None: it is chosen on the development part.
    """

    escalation: Share
    lost: Annotated[float, Field(ge=0, lt=1)] | None = None
    weight: Annotated[float, Field(ge=0, le=1)] | None = None


class StudySpec(_Strict):
    """A study. Models are folders under `root`; parts are files in them.

    Each model's folder holds `PART.parquet`, a scores table, and `PART.blocks.parquet`, its block trace.

    Attributes:
        root: folder of the models. A relative path starts at the spec's own folder.
        exchange: folder of the exchange classifier. Its traces hold the probe's logits too.
        input: folder of the last generation's input classifier. Name it together with `output`, or neither.
        output: folder of its output classifier.
        screen: folder of the small exchange classifier that screens for `exchange` in the cascade.
        others: further scorers, compared at `claim_point` only. They may have fewer rows and no traces.
        verdict_tokens: tokens that the exchange classifier reads for one verdict, beside the conversation
            (its `tokens_per_verdict`). The tables are checked against it.
        probe_flops: FLOPs of the probe itself for one token.
        calibration: part that thresholds come from.
        development: part that weights are chosen on, with its harmful rows.
        benign: part for the flagged share of ordinary traffic.
        harmful, hard_benign, disguised: further parts, each a set of its own.
        pooled: harmful parts that count as one set in means over sets, by the set's name.
        operating_point, claim_point: flagged shares of benign calibration prompts.
        languages: language of each source, for tables without a `language` column.
    """

    name: str = "systems"
    root: Path = Path()
    exchange: str
    input: str | None = None
    output: str | None = None
    screen: str | None = None
    others: Names = ()
    verdict_tokens: Annotated[int, Field(ge=0)]
    probe_flops: Annotated[float, Field(ge=0)] = 0.0
    calibration: str = "calibration"
    development: str | None = None
    benign: str = "benign_test"
    harmful: Annotated[Names, Field(min_length=1)]
    pooled: dict[str, Annotated[Names, Field(min_length=2)]] = {}
    hard_benign: Names = ()
    disguised: Names = ()
    operating_point: Share = 0.001
    claim_point: Share = 0.01
    production: Escalation = Escalation(escalation=0.025)
    cascade: Escalation = Escalation(escalation=0.1, weight=0.0)
    calm_blocks: Annotated[int, Field(ge=1)] = 2
    flag_on: Literal["answer", "both"] = "both"
    languages: dict[str, str] = {}
    resamples: Annotated[int, Field(ge=100)] = 2000
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.input is None) != (self.output is None):
            raise ValueError("input and output make one system; name both or neither")
        parts = [self.calibration, self.benign, *self.harmful, *self.hard_benign, *self.disguised]
        parts += [self.development] if self.development is not None else []
        repeated = sorted({part for part in parts if parts.count(part) > 1})
        if repeated:
            raise ValueError(
                f"part {repeated[0]} is named twice; what sets a threshold must not be tested on"
            )
        members = [part for parts in self.pooled.values() for part in parts]
        for part in members:
            if part not in self.harmful or members.count(part) > 1:
                raise ValueError(f"pooled: {part} must be one of the harmful parts and in one pool only")
        if self.claim_point <= self.operating_point:
            raise ValueError("claim_point must be larger than operating_point")
        return self

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "StudySpec":
        """Read a spec from YAML.

        Raises:
            ConfigError: a field is wrong or unknown. The message names the file and the first such field.
        """
        source = Path(path)
        try:
            content = yaml.safe_load(source.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{source}: cannot be read as YAML ({type(error).__name__})") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: expected a mapping of fields, such as `exchange: FOLDER`")
        try:
            spec = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(step) for step in first["loc"]) or "systems"
            raise ConfigError(f"{source}: {field}: {first['msg']}; known fields: {_known()}") from None
        return spec.model_copy(update={"root": source.parent / spec.root})

    @property
    def harmful_sets(self) -> tuple[Names, ...]:
        """The harmful parts by set. A pooled set stands in the place of its first part."""
        pools = {part: parts for parts in self.pooled.values() for part in parts}
        return tuple(dict.fromkeys(pools.get(part, (part,)) for part in self.harmful))

    @property
    def tested(self) -> tuple[str, ...]:
        """Every part with reported rows, in order."""
        return (self.benign, *self.harmful, *self.hard_benign, *self.disguised)


@cache
def _known() -> str:
    return ", ".join(StudySpec.model_fields)
