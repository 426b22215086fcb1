"""The schema of `classifier.yaml`: what a classifier's folder says of itself. Unknown keys are errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lockgate.backbones import Backbone
from lockgate.classifiers._wrapper import QUESTION, WORDS, HeadName, Reads
from lockgate.errors import BackboneMismatch

_TARGET_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterShape(_Strict):
    """Low-rank maps on the linear maps `targets` of the top `layers` of the first `depth` blocks."""

    depth: int = Field(ge=1)
    layers: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = _TARGET_NAMES

    @property
    def first(self) -> int:
        """The lowest adapted block."""
        return self.depth - self.layers

    @property
    def blocks(self) -> range:
        """Numbers of the adapted blocks."""
        return range(self.first, self.depth)


class ClassifierRecord(_Strict):
    """All of `classifier.yaml` but the hash of what the folder holds."""

    format: Literal[1] = 1
    name: str
    reads: Reads
    head: HeadName
    question: str = QUESTION
    words: tuple[str, str] = WORDS
    adapter: AdapterShape
    backbone: dict[str, Any]
    training: dict[str, Any] | None = None


def backbone_record(backbone: Backbone) -> dict[str, Any]:
    """What a classifier remembers of its backbone."""
    identity = backbone.identity
    return {"name": identity.name, "hashes": identity.hashes}


def check_backbone(record: ClassifierRecord, backbone: Backbone) -> None:
    """Raises BackboneMismatch if the classifier was made for another backbone."""
    if "hashes" not in record.backbone:
        raise BackboneMismatch(f"classifier {record.name}: its record does not say which backbone it is for")
    made, found = record.backbone["hashes"], backbone.identity.hashes
    if differing := sorted(key for key in {*made, *found} if made.get(key) != found.get(key)):
        raise BackboneMismatch(
            f"classifier {record.name} was made for backbone {record.backbone.get('name')}; {backbone.name} "
            f"differs in {', '.join(differing)}. Give the right one, or train on this one"
        )
    if record.adapter.depth > backbone.n_layers or record.adapter.layers > record.adapter.depth:
        raise BackboneMismatch(
            f"classifier {record.name} adapts {record.adapter.layers} of {record.adapter.depth} blocks; "
            f"{backbone.name} has {backbone.n_layers}"
        )
