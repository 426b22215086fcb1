"""Backbones derived from another: fewer blocks, private copies of some, all other weights shared.

The parameters that are not private are the base's own memory. They are never written: a derived backbone has
parameter objects of its own over them, which want no gradient.
"""

import copy
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lockgate.backbones._backbone import Backbone
from lockgate.errors import BackboneError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Injection(nn.Module):
    """Stands in the place of a block and puts out what it was given: `states`, `[tokens, hidden]`.

    A decoder that starts here goes on from activations that another pass has computed. Whatever the
    architecture does to its embeddings doesn't touch them.
    """

    # What tells a plain decoder's blocks from others.
    self_attn: None = None

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """The given states, once; the blocks before are as good as run."""
        states, self.states = self.states, None
        if states is None or states.shape[0] != hidden_states.shape[1]:
            raise BackboneError("an upper part of a backbone needs one activation for each token of the step")
        return states.to(hidden_states).unsqueeze(0)


def derive(
    base: Backbone,
    *,
    depth: int | None = None,
    private: Collection[int] = (),
    dtype: torch.dtype | None = None,
    name: str | None = None,
) -> Backbone:
    """A backbone of the first `depth` blocks of `base` and its final norm, with modules of its own.

    Hooks are not shared: a tap on the base sees nothing of the new backbone's passes, nor the other way.

    Args:
        private: 0-based blocks whose parameters are copied; all others are the base's memory.
        dtype: another precision, in which nothing can be shared.

    Raises:
        BackboneError: a depth or a block that the base does not have.
    """
    blocks = base.n_layers if depth is None else depth
    if not 1 <= blocks <= base.n_layers or not all(0 <= block < blocks for block in private):
        raise BackboneError(
            f"{base.name} has {base.n_layers} blocks; found depth {depth}, own blocks {private}"
        )
    model = _copy(base, {id(p) for block in private for p in base.layers[block].parameters()}, dtype)
    _keep_blocks(model, range(blocks))
    return _wrap(base, model, name or base.name)


def derive_upper(base: Backbone, first: int, *, name: str | None = None) -> tuple[Backbone, Injection]:
    """The blocks from `first` on and the final norm, sharing all weights, and where activations go in.

    Set `Injection.states` to what block `first - 1` put out for the tokens of a step, then step.

    Raises:
        BackboneError: no block is left, or none is left out.
    """
    if not 1 <= first < base.n_layers:
        raise BackboneError(
            f"{base.name}: an upper part begins at block 1 to {base.n_layers - 1}, not {first}"
        )
    model = _copy(base, (), None)
    blocks = _keep_blocks(model, range(first - 1, base.n_layers))
    injection = Injection()
    blocks[0] = injection
    return _wrap(base, model, name or base.name), injection


def _copy(base: Backbone, private: Collection[int], dtype: torch.dtype | None) -> "PreTrainedModel":
    """The module tree anew; parameters over the base's memory, apart from those whose ids are `private`."""
    memo: dict[int, Any] = {}
    for parameter in base.model.parameters():
        data = parameter.detach()
        if id(parameter) in private:
            data = data.clone()
        if dtype is not None:
            data = data.to(dtype)
        memo[id(parameter)] = nn.Parameter(data, requires_grad=False)
    tap = base.tap
    base.use_tap(None)
    try:
        model: PreTrainedModel = copy.deepcopy(base.model, memo)
    finally:
        base.use_tap(tap)
    return model


def _keep_blocks(model: "PreTrainedModel", kept: Iterable[int]) -> nn.ModuleList:
    decoder: Any = model.get_decoder()
    numbers = list(kept)
    blocks = nn.ModuleList(decoder.layers[number] for number in numbers)
    decoder.layers = blocks
    for config in {id(c): c for c in (decoder.config, model.config.get_text_config())}.values():
        _cut_config(config, numbers)
    return blocks


def _cut_config(config: "PretrainedConfig", numbers: list[int]) -> None:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kinds[number] for number in numbers]
    config.num_hidden_layers = len(numbers)


def _wrap(base: Backbone, model: "PreTrainedModel", name: str) -> Backbone:
    # Not the base's identity, nor hashes of its own: a derived backbone is named by what it is derived from.
    made = Backbone(
        model, base.tokenizer, name=name, source=base.source, hashes={"kind": "derived"}, chat=base.chat
    )
    made.context_length = base.context_length
    return made
