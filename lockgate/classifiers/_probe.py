"""The probe: one linear map from a backbone's activations to a logit for each token (CC++ section 5)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lockgate.backbones import SITES, Site
from lockgate.errors import BackboneMismatch, GuardError

# Tokens of a training window (CC++ section 5). The gamma of the moving average in serving follows from it.
WINDOW = 16


@dataclass(frozen=True, slots=True, eq=False)
class ProbeHead:
    """The weights of a probe. They include the standardisation of the activations.

    Row 0 gives the harm logit. Each further row belongs to a category, for reporting only.

    Attributes:
        layers: 0-based layers that are read, in the order of `weights`.
        site: where in the layer activations are read.
        weights: float32 `[1 + categories, layers, hidden]`.
        bias: float32 `[1 + categories]`.
        gamma: weight of the newest logit in the moving average in serving.
        category_ids: constitution ids of the rows from 1 on.
    """

    layers: tuple[int, ...]
    site: Site
    weights: Tensor
    bias: Tensor
    gamma: float
    category_ids: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """Columns of the logits: one for harm and one for each category."""
        return 1 + len(self.category_ids)

    def save(self, path: Path) -> None:
        """Write the head to a safetensors file. Equal heads give equal bytes."""
        meta = {
            "format": "lockgate-probe-1",
            "layers": json.dumps(self.layers),
            "site": self.site,
            "gamma": repr(self.gamma),
            "category_ids": json.dumps(self.category_ids),
        }
        tensors = {"weights": self.weights.contiguous(), "bias": self.bias.contiguous()}
        path.write_bytes(_ordered(save(tensors, metadata=meta)))

    @classmethod
    def load(cls, path: Path) -> "ProbeHead":
        """Read a head that `save` wrote.

        Raises:
            GuardError: the file is missing, cut short or has another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                weights, bias = file.get_tensor("weights").float(), file.get_tensor("bias").float()
        except (OSError, SafetensorError, KeyError) as error:
            raise GuardError(
                f"{path}: not a readable probe ({error}); restore the file or train again"
            ) from error
        if meta.get("format") != "lockgate-probe-1":
            raise GuardError(f"{path}: format {meta.get('format')!r}, expected 'lockgate-probe-1'")
        try:
            layers = tuple(int(layer) for layer in json.loads(meta["layers"]))
            names = tuple(str(name) for name in json.loads(meta["category_ids"]))
            gamma = float(meta["gamma"])
            site = next(known for known in SITES if known == meta["site"])
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise GuardError(f"{path}: the metadata are incomplete or malformed; train again") from error
        expected = (1 + len(names), len(layers))
        if weights.ndim != 3 or tuple(weights.shape[:2]) != expected or tuple(bias.shape) != expected[:1]:
            raise GuardError(
                f"{path}: weights {tuple(weights.shape)} do not fit {expected} outputs and layers"
            )
        if len(set(layers)) < len(layers) or not 0 < gamma <= 1:
            raise GuardError(f"{path}: expected distinct layers and 0 < gamma <= 1; train again")
        if not (weights.isfinite().all() and bias.isfinite().all()):
            raise GuardError(f"{path}: weights that are not finite numbers; train again")
        return cls(layers, site, weights, bias, gamma, names)


class ProbeTap:
    """A tap that scores the tokens of a step while its layers run.

    It adds up one partial dot product for each layer. Several heads can be read in one pass.

    Attributes:
        logits: logits of the newest step `[tokens, outputs]`. The columns of all heads are side by side.

    Raises:
        BackboneMismatch: a head does not fit the backbone's hidden size.
    """

    def __init__(
        self, heads: Sequence[ProbeHead], hidden_size: int, device: torch.device | None = None
    ) -> None:
        for head in heads:
            if head.weights.shape[2] != hidden_size:
                raise BackboneMismatch(
                    f"the probe reads {head.weights.shape[2]} dimensions, the backbone has {hidden_size}"
                )
        self.heads = tuple(heads)
        self.bias = torch.cat([head.bias for head in heads]).to(device)
        self.logits: Tensor = torch.empty(0, len(self.bias))
        self._weights: dict[tuple[int, Site], Tensor] = _stack(heads, device)

    @property
    def wanted(self) -> Iterable[tuple[int, Site]]:
        """Layers and sites that a head reads."""
        return self._weights.keys()

    def columns(self, head: int) -> slice:
        """Return the columns of `logits` that belong to the head of this number."""
        start = sum(h.n_outputs for h in self.heads[:head])
        return slice(start, start + self.heads[head].n_outputs)

    def begin(self, tokens: int) -> None:
        """Set the logits of `tokens` tokens to the bias."""
        self.logits = self.bias.repeat(tokens, 1)

    def see(self, layer: int, site: Site, hidden: Tensor) -> None:
        """Add one layer's share, in float32 for any precision of the backbone."""
        self.logits.addmm_(hidden.float(), self._weights[layer, site])


def _ordered(data: bytes) -> bytes:
    """Return the same file with sorted header keys, because the library writes them in random order."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _stack(heads: Sequence[ProbeHead], device: torch.device | None) -> dict[tuple[int, Site], Tensor]:
    """Return weights `[hidden, all outputs]` by layer and site. They are zero where a head does not read."""
    total = sum(head.n_outputs for head in heads)
    stacked: dict[tuple[int, Site], Tensor] = {}
    start = 0
    for head in heads:
        for index, layer in enumerate(head.layers):
            key = (layer, head.site)
            block = stacked.setdefault(key, torch.zeros(head.weights.shape[2], total, device=device))
            block[:, start : start + head.n_outputs] = head.weights[:, index].T.to(block.device)
        start += head.n_outputs
    return stacked
