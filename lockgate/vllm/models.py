"""Models whose blocks write to the probe's board inside the compiled graph.

They are vLLM's own models. Blocks that the probe reads are given a class that calls one more operation.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from lockgate.errors import ConfigError
from lockgate.vllm._board import Board, add_share, make_board
from lockgate.vllm._settings import KEY, Settings, read_probe

__all__ = [
    "LockgateLlamaForCausalLM",
    "LockgateMistralForCausalLM",
    "LockgateQwen2ForCausalLM",
    "LockgateQwen3ForCausalLM",
]


@torch.library.custom_op("lockgate::add_share", mutates_args=("scores", "counts"))
def _add_share(
    hidden: Tensor,
    residual: Tensor,
    weights: Tensor,
    bias: Tensor,
    scores: Tensor,
    counts: Tensor,
    first: bool,
) -> None:
    add_share(hidden, residual, weights, bias, scores, counts, first=first)


@_add_share.register_fake
def _add_nothing(
    hidden: Tensor,
    residual: Tensor,
    weights: Tensor,
    bias: Tensor,
    scores: Tensor,
    counts: Tensor,
    first: bool,
) -> None:
    return None


def _probed(block: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Return a class of blocks that add their share after they have run."""

    class ProbedBlock(block):  # type: ignore[valid-type, misc]
        def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
            hidden, residual = block.forward(self, *args, **kwargs)
            torch.ops.lockgate.add_share(
                hidden,
                residual,
                self.lockgate_weights,
                self.lockgate_bias,
                self.lockgate_scores,
                self.lockgate_counts,
                self.lockgate_first,
            )
            return hidden, residual

    return ProbedBlock


def _put_probe_in(model: torch.nn.Module, config: VllmConfig) -> Board:
    """Let a model's blocks write to a new board."""
    layers: Any = model.get_submodule("model.layers")
    settings = Settings.read(config.additional_config)
    if settings.probe is None:
        raise ConfigError(
            f"additional_config.{KEY}.probe: a compiled model needs it; lockgate.vllm.command_line writes it"
        )
    board = make_board(config, read_probe(settings).head, len(layers))
    kinds: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}
    for number, layer in enumerate(board.layers):
        block = layers[layer]
        kind = type(block)
        block.__class__ = kinds.setdefault(kind, _probed(kind))
        # Buffers that are not saved: the loader of weights does not miss them, and the compiler sees them.
        for name, tensor in (
            ("weights", board.weights[number]),
            ("bias", board.bias),
            ("scores", board.scores),
            ("counts", board.counts),
        ):
            block.register_buffer(f"lockgate_{name}", tensor, persistent=False)
        block.lockgate_first = number == 0
    return board


class LockgateLlamaForCausalLM(LlamaForCausalLM):
    """Llama with the probe."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.lockgate_board = _put_probe_in(self, vllm_config)


class LockgateMistralForCausalLM(MistralForCausalLM):
    """Mistral with the probe."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.lockgate_board = _put_probe_in(self, vllm_config)


class LockgateQwen2ForCausalLM(Qwen2ForCausalLM):
    """Qwen 2 with the probe."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.lockgate_board = _put_probe_in(self, vllm_config)


class LockgateQwen3ForCausalLM(Qwen3ForCausalLM):
    """Qwen 3 with the probe."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.lockgate_board = _put_probe_in(self, vllm_config)
