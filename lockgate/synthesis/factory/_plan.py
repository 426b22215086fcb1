"""The plan of a data set, read from YAML or taken from a preset."""

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from lockgate.errors import ConfigError
from lockgate.synthesis.factory._sections import (
    AnswerPlan,
    AugmentationPlan,
    FilterPlan,
    JudgePlan,
    PairPlan,
    QueryPlan,
    RedTeamPlan,
    Settings,
    Share,
)

PlanPreset = Literal["small", "large"]


class FactoryPlan(Settings):
    """Settings of a data set. With constitution, generator and the user's files they decide it.

    Attributes:
        seed: another seed gives other questions and another split.
        split: share of the prompt groups for each part. `train` is the part without held-out disguises.
        batch_rows: requests of one call. A kill repeats at most this many.
    """

    seed: int = 0
    queries: QueryPlan = QueryPlan()
    answers: AnswerPlan = AnswerPlan()
    pairs: PairPlan = PairPlan()
    augmentation: AugmentationPlan = AugmentationPlan()
    red_team: RedTeamPlan = RedTeamPlan()
    filters: FilterPlan = FilterPlan()
    judge: JudgePlan = JudgePlan()
    split: dict[str, Share] = Field(default_factory=lambda: {"train": 0.85, "test": 0.15})
    batch_rows: int = Field(default=64, ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "train" not in self.split or abs(sum(self.split.values()) - 1) > 1e-9:
            raise ValueError("split: expected a part `train` and shares that add up to 1")
        return self

    @classmethod
    def preset(cls, name: PlanPreset = "small", **changes: object) -> Self:
        """Return a plan by name. `changes` replace whole sections.

        `small` suits the embedded model on two cores: about 1,200 generated answers of 80 tokens. `large`
        suits an endpoint with a capable model.

        Raises:
            ConfigError: No preset has this name, or a change doesn't fit.
        """
        if name not in _PRESETS:
            raise ConfigError(f"preset: expected one of {', '.join(_PRESETS)}")
        return cls._read({**_PRESETS[name], **changes}, f"preset {name}")

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan. The key `preset` names a plan; the other keys change it.

        Raises:
            ConfigError: The file can't be read, or holds an unknown key or value.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{os.fspath(path)}: can't be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{os.fspath(path)}: not valid YAML in UTF-8 ({type(error).__name__})"
            ) from None
        if not isinstance(content, dict):
            raise ConfigError(f"{os.fspath(path)}: expected a mapping of settings")
        base = content.pop("preset", None)
        if base is None:
            return cls._read(content, os.fspath(path))
        if not isinstance(base, str) or base not in _PRESETS:
            raise ConfigError(f"{os.fspath(path)}: preset: expected one of {', '.join(_PRESETS)}")
        return cls._read(_overlay(_PRESETS[base], content), os.fspath(path))

    def to_yaml(self) -> str:
        """Return YAML text. `from_yaml` makes an equal plan from it."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    @classmethod
    def _read(cls, content: dict[str, Any], where: str) -> Self:
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"]) or "plan"
            more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
            raise ConfigError(f"{where}: {place}: {problem['msg']}{more}") from None


def _overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# The small plan keeps disguises short. A small model can't read a code book of forty terms or a long passage,
# and two cores train on every token.
_PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "queries": {"per_request": 5, "max_tokens": 120, "temperature": 0.7, "composed_share": 0.6},
        "answers": {"most": 1200, "openings": True, "temperature": 0.6},
        "pairs": {"generated": 0.3},
        "filters": {
            "own_words": True,
            "leave_out": [
                "words", "stop_words", "top_3_gram", "top_4_gram", "repeated_5_grams", "repeated_6_grams",
                "repeated_7_grams",
            ],
        },
        "augmentation": {
            "share": 0.2,
            "families": [
                "formats", "keyed-obfuscation", "letter-substitution", "letter-order", "metaphor",
                "multi-turn", "personas", "prefix-injection", "reconstruction", "refusal-suppression",
                "system-prompts",
            ],
            "hold_out": ["metaphor", "letter-order"],
            "max_characters": 2000,
        },
    },
    "large": {
        "queries": {
            "harmful_per_category": 400, "near_domain": 2000, "out_of_scope": 800, "everyday": 1200,
            "per_request": 20, "max_tokens": 900,
        },
        "answers": {"per_harmful": 2, "permitted_share": 0.4, "max_tokens": 400},
        "augmentation": {
            "share": 0.6, "hold_out": ["metaphor", "letter-order", "many-shot"], "max_depth": 3,
            "max_characters": 20_000, "paraphrase_share": 0.05, "translation_share": 0.05,
        },
        "red_team": {"share": 0.015},
    },
}  # fmt: skip
