"""A worker and a scheduler whose guard can be switched off, for `benchmarks.vllm_guard` alone."""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from lockgate.vllm.scheduler import GuardScheduler
from lockgate.vllm.worker import GuardWorker


class SwitchedWorker(GuardWorker):
    """A worker without hooks and board while the guard is off."""

    _kept: Any = None

    def switch_guard(self, on: bool) -> None:
        """Take the probe out of the model, or put it back."""
        if on == (self._board is not None):
            return
        for layer in self.model_runner.get_model().model.layers:
            if on:
                layer._forward_hooks.update(layer.put_away)
            else:
                layer.put_away = dict(layer._forward_hooks)
                layer._forward_hooks.clear()
        self._board, self._kept = self._kept, self._board


class SwitchedScheduler(GuardScheduler):
    """vLLM's own scheduler while the guard is off."""

    guarded = True

    def add_request(self, request: Request) -> None:
        GuardScheduler.add_request(self, request) if self.guarded else Scheduler.add_request(self, request)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        kind = GuardScheduler if self.guarded else Scheduler
        return kind.update_from_output(self, scheduler_output, model_runner_output)
