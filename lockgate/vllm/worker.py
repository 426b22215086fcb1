"""Lockgate's worker for vLLM: the probe reads every token while the model computes it.

It is named on vLLM's command line: `--worker-cls lockgate.vllm.worker.GuardWorker`.
"""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from lockgate.backbones.outline import read_outline
from lockgate.errors import BackboneMismatch, ConfigError
from lockgate.vllm._board import Board, attach, make_board
from lockgate.vllm._identity import check_backbone
from lockgate.vllm._payload import StepRows
from lockgate.vllm._refusals import check_config
from lockgate.vllm._settings import Settings, read_probe

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker

__all__ = ["GuardWorker"]


class GuardWorker(Worker):
    """vLLM's worker with the probe. Its output of a step carries the rows of the step's tokens.

    Raises:
        ConfigError: the settings are missing, or vLLM's configuration is refused.
        GuardError: the guard is unreadable, or was made for another backbone.
    """

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        settings = Settings.read(vllm_config.additional_config)
        check_config(vllm_config, settings.release)
        self._probe = read_probe(settings)
        super().__init__(vllm_config, *args, **kwargs)
        self._board: Board | None = None
        self._pending: _Pending | None = None

    def load_model(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Load the model and put the probe in."""
        # Every rank holds all activations behind a block, but only the first rank's output is sent.
        if self.rank == 0:
            config = self.vllm_config.model_config
            dtype = str(config.dtype).removeprefix("torch.")
            check_backbone(self._probe.record, read_outline(config.model), dtype)
        super().load_model(**kwargs)
        model = self.model_runner.get_model()
        self._board = getattr(model, "lockgate_board", None)
        if self._board is None:
            if not self.vllm_config.model_config.enforce_eager:
                raise ConfigError(
                    f"{type(model).__name__}: no compiled form with a probe; add --enforce-eager"
                )
            layers = getattr(getattr(model, "model", None), "layers", None)
            if not isinstance(layers, torch.nn.ModuleList):
                raise BackboneMismatch(
                    f"{type(model).__name__}: its blocks are not where the probe expects them"
                )
            self._board = make_board(self.vllm_config, self._probe.head, len(layers))
            attach(self._board, layers)

    def execute_model(self, scheduler_output: SchedulerOutput) -> Any:  # noqa: ANN401 - as vLLM has it
        """Run a step, with unreadable rows before it."""
        board, tokens = self._board, scheduler_output.total_num_scheduled_tokens
        self._pending = None
        if board is None or not tokens:
            return super().execute_model(scheduler_output)
        board.poison(tokens)
        output = super().execute_model(scheduler_output)
        self._pending = self._collect(board, scheduler_output)
        return output if output is None else self._attach(output)

    def sample_tokens(self, grammar_output: Any) -> Any:  # noqa: ANN401 - as vLLM has it
        """Sample the step's tokens. The output carries the step's rows."""
        return self._attach(super().sample_tokens(grammar_output))

    def _collect(self, board: Board, scheduler_output: SchedulerOutput) -> "_Pending":
        # The order of the batch is known only now, because the attention backend may change it.
        batch = self.model_runner.input_batch
        ids = list(batch.req_ids)
        counts = [scheduler_output.num_scheduled_tokens[name] for name in ids]
        firsts = [int(first) for first in batch.num_computed_tokens_cpu[: len(ids)]]
        return _Pending(board, ids, firsts, counts)

    def _attach(self, output: Any) -> Any:  # noqa: ANN401 - as vLLM has it
        pending, self._pending = self._pending, None
        if pending is None:
            return output
        if isinstance(output, AsyncModelRunnerOutput):
            return _AsyncOutput(output, pending)
        pending.rows().attach(output)
        return output


class _Pending:
    """The rows of one step, copied from the board before the next step overwrites it."""

    def __init__(self, board: Board, ids: list[str], firsts: list[int], counts: list[int]) -> None:
        self._board = board
        self._batch = (ids, firsts, counts)
        self._copied = board.copy(sum(counts))
        self._event: Any = None
        if self._copied.is_cuda:
            # Without a wait: the processor schedules on while the device works.
            on_device, self._copied = self._copied, torch.empty(self._copied.shape, pin_memory=True)
            self._copied.copy_(on_device, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def rows(self) -> StepRows:
        """Wait for the copy and return the rows."""
        if self._event is not None:
            self._event.synchronize()
        return StepRows(*self._batch, self._board.check(self._copied))


class _AsyncOutput(AsyncModelRunnerOutput):
    """An output of vLLM that is still on its way, with the step's rows."""

    def __init__(self, output: AsyncModelRunnerOutput, pending: _Pending) -> None:
        self._output = output
        self._pending = pending

    def get_output(self) -> ModelRunnerOutput:
        """Wait for the output, and attach the rows."""
        made = self._output.get_output()
        self._pending.rows().attach(made)
        return made
