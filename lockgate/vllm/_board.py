"""The board on which a model's layers add up the probe's logits while they run."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lockgate.classifiers import ProbeHead
from lockgate.errors import BackboneMismatch
from lockgate.vllm._rows import Rows


class Board:
    """The probe's weights, and one row of logits for each token of a step, at a fixed address.

    Every layer that the probe reads adds its share and counts itself. A row is read only if all of them
    have. Before a step, rows are filled with NaN.

    Args:
        head: the probe.
        tokens: tokens of the longest step, with padding.
        hidden_size, layers: shape of the model.
        device: device of the model.

    Attributes:
        layers: 0-based layers that are read, lowest first.
        scores: `[tokens, outputs]`, float32.
        counts: `[tokens]`, layers that have written a row.

    Raises:
        BackboneMismatch: the probe was made for a model of another shape.
    """

    def __init__(
        self, head: ProbeHead, tokens: int, hidden_size: int, layers: int, device: torch.device
    ) -> None:
        if head.weights.shape[2] != hidden_size or not all(0 <= layer < layers for layer in head.layers):
            raise BackboneMismatch(
                f"the guard reads {head.weights.shape[2]} dimensions and layers up to {max(head.layers)}; "
                f"the model has {hidden_size} dimensions and {layers} layers. Serve the one it was made for"
            )
        order = sorted(range(len(head.layers)), key=lambda index: head.layers[index])
        self.layers = tuple(head.layers[index] for index in order)
        # A model is built under vLLM's own default dtype and device, so both are given here.
        kind = torch.float32
        self.weights: list[Tensor] = [
            head.weights[:, index].T.contiguous().to(device, kind) for index in order
        ]
        self.bias = head.bias.to(device, kind)
        self.scores = torch.full((tokens, head.n_outputs), torch.nan, dtype=kind, device=device)
        self.counts = torch.zeros(tokens, dtype=kind, device=device)

    def add(self, number: int, hidden: Tensor, residual: Tensor | None) -> None:
        """Add a layer's share.

        Args:
            number: which of `layers` it is.
            hidden, residual: `[tokens, hidden]`; their sum is the layer's output.
        """
        add_share(
            hidden, residual, self.weights[number], self.bias, self.scores, self.counts, first=number == 0
        )

    def poison(self, tokens: int) -> None:
        """Make the first rows unreadable until a step has written them."""
        self.scores[:tokens].fill_(torch.nan)
        self.counts[:tokens].zero_()

    def copy(self, tokens: int) -> Tensor:
        """Return a copy of the first rows, because the next step overwrites them. Last column: counts."""
        return torch.cat([self.scores[:tokens], self.counts[:tokens, None]], 1)

    def check(self, copied: Tensor) -> Rows:
        """Return rows `[tokens, outputs]` of a copy. Rows that a layer did not write are NaN."""
        found: Rows = copied.cpu().numpy()
        rows = found[:, :-1].copy()
        rows[found[:, -1] != len(self.layers)] = np.nan
        return rows


def make_board(config: Any, head: ProbeHead, layers: int) -> Board:  # noqa: ANN401 - vLLM's VllmConfig
    """Make the board for vLLM's model of `layers` blocks."""
    # A step in a captured graph is padded to the graph's size.
    captured = config.compilation_config.max_cudagraph_capture_size or 0
    tokens = max(config.scheduler_config.max_num_batched_tokens, captured)
    device = torch.device(config.device_config.device)
    return Board(head, tokens, config.model_config.get_hidden_size(), layers, device)


def add_share(
    hidden: Tensor,
    residual: Tensor | None,
    weights: Tensor,
    bias: Tensor,
    scores: Tensor,
    counts: Tensor,
    *,
    first: bool,
) -> None:
    """Add one layer's share to the first rows of `scores`. The sum is the model's, the product float32."""
    summed = hidden if residual is None else hidden + residual
    tokens = summed.shape[0]
    rows, written = scores[:tokens], counts[:tokens]
    if first:
        torch.addmm(bias, summed.float(), weights, out=rows)
        written.fill_(1)
    else:
        rows.addmm_(summed.float(), weights)
        written.add_(1)


def attach(board: Board, layers: torch.nn.ModuleList) -> None:
    """Let a model's blocks write to the board by forward hooks. They run only where nothing is compiled."""
    for number, layer in enumerate(board.layers):

        def hook(_module: torch.nn.Module, _inputs: object, output: object, number: int = number) -> None:
            hidden, residual = output if isinstance(output, tuple) else (output, None)
            board.add(number, hidden, residual)

        layers[layer].register_forward_hook(hook)
