"""The schema of `classifier.yaml`, the record in a classifier's folder. Unknown keys are errors."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lockgate.backbones import Backbone
from lockgate.classifiers._wrapper import QUESTION, WORDS, HeadName, Reads
from lockgate.errors import BackboneMismatch

_TARGET_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterShape(_Strict):
    """The shape of a low-rank adapter.

    Attributes:
        depth: layers of the backbone that the classifier uses, from the bottom.
        layers: how many of these layers, from the top, are adapted.
        rank: rank of the low-rank maps.
        alpha: scale: a map's product is multiplied by `alpha / rank`.
        targets: names of the adapted linear maps.
    """

    depth: int = Field(ge=1)
    layers: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = _TARGET_NAMES

    @property
    def first(self) -> int:
        """Number of the lowest adapted layer."""
        return self.depth - self.layers

    @property
    def blocks(self) -> range:
        """Numbers of the adapted layers."""
        return range(self.first, self.depth)


class ClassifierRecord(_Strict):
    """The content of `classifier.yaml`, except the hash of the folder's content.

    Attributes:
        reads: the part of an exchange that the classifier reads.
        head: `verdict` compares two words after a question; `value` is a linear map on each token.
        question, words: the question and the two verdict words, harmful first.
        adapter: shape of the adapter.
        backbone: name and hashes of the backbone it was made for.
        training: data and settings of the training, if recorded.
    """

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
    """Return the name and hashes of a backbone, as a classifier records them."""
    identity = backbone.identity
    return {"name": identity.name, "hashes": identity.hashes}


def check_backbone(record: ClassifierRecord, backbone: Backbone) -> None:
    """Check a classifier's backbone. Raises BackboneMismatch if the classifier was made for another one."""
    if "hashes" not in record.backbone:
        raise BackboneMismatch(f"classifier {record.name}: its record does not name its backbone")
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
