"""Taps: hooks that read activations in the layers of any decoder, before the final norm."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lockgate.errors import BackboneError

Site = Literal["residual", "attention", "mlp"]
SITES: tuple[Site, ...] = ("residual", "attention", "mlp")


class Tap(Protocol):
    """A reader of activations while a packed step runs."""

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """The layers (0-based) and sites that the tap wants to see."""
        ...

    def begin(self, tokens: int) -> None:
        """Prepare for a step over `tokens` packed tokens."""
        ...

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Take the activations `[tokens, hidden]` of one layer and site, in packed order.

        The model owns the memory: copy what must outlive this call, and do not write to it.
        """
        ...


class TapGroup:
    """A group of taps on one pass. Each tap sees the layers and sites that it wants."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._readers: dict[tuple[int, Site], list[Tap]] = {}
        for tap in taps:
            for key in tap.wanted:
                self._readers.setdefault(key, []).append(tap)

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """All layers and sites that any of the taps wants."""
        return self._readers.keys()

    def begin(self, tokens: int) -> None:
        """Call `begin` of all taps."""
        for tap in self.taps:
            tap.begin(tokens)

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Pass activations on to the taps that want them."""
        for tap in self._readers[layer, site]:
            tap.see(layer, site, hidden)


def attach(tap: Tap, layers: torch.nn.ModuleList) -> list[RemovableHandle]:
    """Hook `tap` onto decoder `layers`. Either all hooks are set or none.

    The site `residual` is a layer's output, before the final norm. The sites `attention` and `mlp` are the
    outputs of the layer's two sub-modules. Some architectures apply a norm before they add these outputs to
    the residual stream; the tap sees them before that norm. Layers count from 0.

    Returns:
        Handles of the hooks. The caller removes them.

    Raises:
        BackboneError: a layer number is out of range, or a layer lacks the sub-module of a site.
    """
    found = []
    for layer, site in tap.wanted:
        if not 0 <= layer < len(layers):
            raise BackboneError(
                f"layer {layer} asked for, but the backbone has layers 0 to {len(layers) - 1}"
            )
        found.append((_module(layers[layer], site), _hook(tap, layer, site)))
    return [module.register_forward_hook(hook) for module, hook in found]


def _module(block: torch.nn.Module, site: Site) -> torch.nn.Module:
    if site == "residual":
        return block
    name = {"attention": "self_attn", "mlp": "mlp"}[site]
    module = getattr(block, name, None)
    if not isinstance(module, torch.nn.Module):
        raise BackboneError(
            f"{type(block).__name__} has no `{name}`: use the residual site with this backbone"
        )
    return module


def _hook(tap: Tap, layer: int, site: Site) -> Callable[[torch.nn.Module, Any, Any], None]:
    def hook(module: torch.nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        tap.see(layer, site, hidden.reshape(-1, hidden.shape[-1]))

    return hook
