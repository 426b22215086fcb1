"""Where activations are read: hooks on the blocks of any decoder, before the final norm."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lockgate.errors import BackboneError

Site = Literal["residual", "attention", "mlp"]
SITES: tuple[Site, ...] = ("residual", "attention", "mlp")


class Tap(Protocol):
    """Something that reads activations while a packed step runs."""

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """Layers (0-based) and sites to be shown."""
        ...

    def begin(self, tokens: int) -> None:
        """A step over `tokens` packed tokens starts."""
        ...

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Activations `[tokens, hidden]` of one layer and site, in packed order; the memory is not yours."""
        ...


class TapGroup:
    """Several taps on one pass; each sees what it wants."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = tuple(taps)
        self._readers: dict[tuple[int, Site], list[Tap]] = {}
        for tap in taps:
            for key in tap.wanted:
                self._readers.setdefault(key, []).append(tap)

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """What any of the taps wants."""
        return self._readers.keys()

    def begin(self, tokens: int) -> None:
        """Pass on to all."""
        for tap in self.taps:
            tap.begin(tokens)

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Pass on to those who asked."""
        for tap in self._readers[layer, site]:
            tap.see(layer, site, hidden)


def attach(tap: Tap, layers: torch.nn.ModuleList) -> list[RemovableHandle]:
    """Hook `tap` onto decoder `layers`; the caller removes the handles.

    Convention: `residual` is a block's output (0-based layer index, before the final norm), `attention` and
    `mlp` are what the sub-blocks put out (where an architecture norms that before it adds it to the residual
    stream: before the norm). Either all hooks are set or none.

    Raises:
        BackboneError: a layer number out of range, or a block without the sub-module asked for.
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
