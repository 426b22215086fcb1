"""Derived backbones: fewer layers than the base, private copies of some, all other weights shared.

Parameters that are not private use the base's memory and are never written. A derived backbone has its own
parameter objects over that memory, and they require no gradient.
"""

import copy
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lockgate.backbones._backbone import Backbone
from lockgate.errors import BackboneError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


_FRONTS: WeakKeyDictionary[Backbone, dict[int, Backbone]] = WeakKeyDictionary()


class Injection(nn.Module):
    """A stand-in for a layer. It outputs the given `states`, `[tokens, hidden]`.

    A decoder that starts with it continues from activations that another pass has computed. Nothing that the
    architecture does to its embeddings changes them.
    """

    # A plain decoder's layers are recognised by this attribute.
    self_attn: None = None

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """Return the given states, as if the layers before had run. The states can be used once.

        Raises:
            BackboneError: no states were given, or not one for each token of the step.
        """
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
    """Derive a backbone from the first `depth` layers of `base` and its final norm.

    The new backbone has its own modules, so hooks are not shared. A tap on one backbone sees nothing of the
    other backbone's passes.

    Args:
        depth: number of layers to keep. By default all are kept.
        private: 0-based layers that get copies of their parameters. All others use the base's memory.
        dtype: another precision. With it no memory is shared.
        name: name of the new backbone. By default it is the base's name.

    Raises:
        BackboneError: the base does not have this depth or one of the private layers.
    """
    blocks = base.n_layers if depth is None else depth
    if not 1 <= blocks <= base.n_layers or not all(0 <= block < blocks for block in private):
        raise BackboneError(
            f"{base.name} has {base.n_layers} blocks; found depth {depth}, own blocks {private}"
        )
    model = _copy(base, {id(p) for block in private for p in base.layers[block].parameters()}, dtype)
    _keep_blocks(model, range(blocks))
    return _wrap(base, model, name or base.name)


def front(base: Backbone, depth: int) -> Backbone:
    """Return a backbone that reads only the first `depth` layers of `base`, or `base` if it has no more.

    Activations of these layers are the base's own, bit for bit. All weights are shared. The result is kept
    for as long as the base is, because making one takes longer than reading a short exchange.
    """
    # Quantised layers keep weights in buffers, and a copy of the module tree would copy these.
    if depth >= base.n_layers or base.is_quantised:
        return base
    kept = _FRONTS.setdefault(base, {})
    if depth not in kept:
        kept[depth] = derive(base, depth=depth)
    return kept[depth]


def derive_upper(base: Backbone, first: int, *, name: str | None = None) -> tuple[Backbone, Injection]:
    """Derive a backbone from the layers of `base` from `first` on and its final norm. All weights are shared.

    Before each step, set `Injection.states` to the output of layer `first - 1` for the tokens of the step.

    Returns:
        The backbone, and the injection that takes the activations.

    Raises:
        BackboneError: no layer would be left, or none would be left out.
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
    """Copy the module tree. Parameters use the base's memory, except those with ids in `private`."""
    memo: dict[int, Any] = {}
    for parameter in base.model.parameters():
        data = parameter.detach()
        if id(parameter) in private:
            data = data.clone()
        if dtype is not None:
            data = data.to(dtype)
        memo[id(parameter)] = nn.Parameter(data, requires_grad=False)
    with base.turn:  # a pass of another thread must not lose its tap
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
    # It has neither the base's identity nor hashes of its own. Records name the base instead.
    made = Backbone(
        model, base.tokenizer, name=name, source=base.source, hashes={"kind": "derived"}, chat=base.chat
    )
    made.context_length = base.context_length
    return made
