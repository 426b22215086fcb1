"""Lockgate's scheduler for vLLM: tokens leave the engine only when they are scored and cleared.

It is named on vLLM's command line: `--scheduler-cls lockgate.vllm.scheduler.GuardScheduler`. Every front end
of vLLM gets its tokens from the scheduler, so all of them are guarded.
"""

import logging
from collections.abc import Iterable
from typing import Any

from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from lockgate.errors import ConfigError
from lockgate.vllm._book import GateBook, Leaving
from lockgate.vllm._payload import StepRows
from lockgate.vllm._refusals import check_config, refuse_request
from lockgate.vllm._rows import RowStore
from lockgate.vllm._settings import Settings, read_probe

__all__ = ["GuardAsyncScheduler", "GuardScheduler"]

_LOG = logging.getLogger("vllm.lockgate")
_REFUSED = "lockgate-refused: "


class GuardScheduler(Scheduler):
    """vLLM's scheduler with a gate for every request.

    Making one gives a `GuardAsyncScheduler` if vLLM schedules a step ahead.

    Raises:
        ConfigError: the settings are missing, or vLLM's configuration is refused.
        GuardError: the guard is unreadable.
    """

    def __new__(cls, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> "GuardScheduler":  # noqa: ANN401
        ahead = cls is GuardScheduler and vllm_config.scheduler_config.async_scheduling
        return super().__new__(GuardAsyncScheduler if ahead else cls)

    def __init__(self, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        settings = Settings.read(vllm_config.additional_config)
        check_config(vllm_config, settings.release)
        probe = read_probe(settings)
        super().__init__(vllm_config, *args, **kwargs)
        store = None
        if self.cache_config.enable_prefix_caching:
            blocks = self.kv_cache_config.num_blocks * self.block_size // self.hash_block_size
            store = RowStore(self.hash_block_size, probe.outputs, 2 * blocks)
        self.book = GateBook(settings, probe, store)
        specs = [group.kv_cache_spec for group in self.kv_cache_config.kv_cache_groups]
        self._can_cut = all(isinstance(spec, FullAttentionSpec) for spec in specs)
        self._seeds = not (current_platform.is_cpu() and self.scheduler_config.enable_chunked_prefill)
        self._refused: dict[str, str] = {}
        # Outputs that are due in the next step, each with the number of its client.
        self._due: list[tuple[int, EngineCoreOutput]] = []
        # What vLLM tells once in a request's first output, while that output has nothing to send.
        self._put_off: dict[str, EngineCoreOutput] = {}

    def add_request(self, request: Request) -> None:
        """Open a gate for a request. A refused request ends with an error in the next step."""
        name = request.request_id
        if name in self.requests:
            # Only a streaming input comes in parts, and its first part is refused already.
            return
        reason = refuse_request(request, seeds=self._seeds)
        request.resumable = False
        if reason is None:
            try:
                request.max_tokens = self.book.open(
                    name,
                    request.prompt_token_ids,
                    request.max_tokens,
                    self.max_model_len,
                    request.sampling_params.extra_args,
                )
            except ConfigError as error:
                reason = str(error)
        if reason is not None:
            self._refused[name] = reason
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:  # noqa: ANN401
        """Schedule a step. Refused requests are ended first."""
        for name, reason in self._refused.items():
            for request in super().finish_requests(name, RequestStatus.FINISHED_ERROR):
                output = EngineCoreOutput(
                    name, [], finish_reason=FinishReason.ERROR, stop_reason=_REFUSED + reason
                )
                self._due.append((request.client_index, output))
        self._refused.clear()
        return super().schedule(*args, **kwargs)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Take a step's rows and tokens. Return what may leave."""
        read = self._read(scheduler_output, model_runner_output)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        rows = StepRows.by_request(model_runner_output)
        for request, valid in read:
            first, found = rows.get(request.request_id, (0, None))
            self.book.feed(
                request.request_id,
                first,
                None if found is None else found[:valid],
                # The newest token was sampled in this step. It is not read yet.
                known=request.num_tokens - 1,
                keys=request.block_hashes,
            )
        for each in outputs.values():
            each.outputs = [output for output in each.outputs if self._guard(output)]
        self._end_halted()
        for client, output in self._due:
            outputs.setdefault(client, EngineCoreOutputs(outputs=[])).outputs.append(output)
        self._due.clear()
        return outputs

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """End requests, for example because a client has left, and forget their held tokens."""
        ended: list[Request] = super().finish_requests(request_ids, finished_status)
        for request in ended:
            self._forget(request.request_id)
        return ended

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:  # noqa: ANN401
        """Empty the cache of prefixes, and forget their rows."""
        if self.book.store is not None:
            self.book.store.clear()
        done: bool = super().reset_prefix_cache(*args, **kwargs)
        return done

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        """Take over only cached blocks whose rows are known. The others are computed again."""
        blocks, tokens, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if tokens:
            known = self.book.cached(request.request_id, request.block_hashes, tokens)
            known -= known % self.block_size
            if known < tokens:
                # A sliding window has no blocks before its own, so its hit can't be cut.
                tokens = known if self._can_cut else 0
                manager = self.kv_cache_manager
                blocks = (
                    manager.truncate_computed_blocks(blocks, tokens)
                    if tokens
                    else manager.empty_kv_cache_blocks
                )
        return blocks, tokens, boundary, diverged

    def _read(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> list[tuple[Request, int]]:
        """Return the step's requests, each with the number of its rows that belong to accepted tokens."""
        sampled = model_runner_output.sampled_token_ids
        found = []
        for name, count in scheduler_output.num_scheduled_tokens.items():
            request = self.requests.get(name)
            if request is None or name not in self.book:
                continue
            if drafts := len(scheduler_output.scheduled_spec_decode_tokens.get(name, ())):
                accepted = len(sampled[model_runner_output.req_id_to_index[name]]) if sampled else 0
                count += max(accepted - 1, 0) - drafts
            found.append((request, count))
        return found

    def _guard(self, output: EngineCoreOutput) -> bool:
        """Leave in an output only what may leave. Return whether there is something to send."""
        name = output.request_id
        finished = output.finish_reason is not None
        leaving = self.book.leave(name, output.new_token_ids, finished=finished)
        output.new_token_ids, output.kv_transfer_params = leaving.tokens, leaving.note
        if (earlier := self._put_off.pop(name, None)) is not None:
            output.prefill_stats = output.prefill_stats or earlier.prefill_stats
            output.events = [*(earlier.events or []), *(output.events or [])] or None
        if leaving.stop is not None:
            self._note(leaving)
            if not finished:
                super().finish_requests(name, RequestStatus.FINISHED_STOPPED)
            output.finish_reason, output.stop_reason = FinishReason.STOP, leaving.stop
        elif finished and leaving.over:
            output.finish_reason, output.stop_reason = FinishReason.LENGTH, None
        elif leaving.empty:
            self._put_off[name] = output
            return False
        return True

    def _end_halted(self) -> None:
        """End the requests that must end and have no output in this step, as with a flag in the prompt."""
        for name in self.book.halted():
            request = self.requests.get(name)
            output = EngineCoreOutput(name, [])
            if request is None:
                self._forget(name)
                continue
            output.events, output.trace_headers = request.take_events(), request.trace_headers
            self._guard(output)
            self._due.append((request.client_index, output))

    def _note(self, leaving: Leaving) -> None:
        if leaving.fault is not None:
            _LOG.error(
                "Lockgate ended a request: a score was %s (%d faults so far)", leaving.fault, self.book.faults
            )

    def _forget(self, name: str) -> None:
        self.book.close(name)
        self._put_off.pop(name, None)


class GuardAsyncScheduler(GuardScheduler, AsyncScheduler):
    """The same for a vLLM that schedules the next step before this one's tokens are known."""
