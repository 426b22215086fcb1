"""vLLM as the model of a gateway: one engine in processes of its own, driven step by step.

vLLM's scheduler holds every token until the probe inside the worker has scored it, and sends its row with it.
What may leave is decided here, as for any other model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockgate.backbones import Backbone, Feed, RenderedChat, SessionPool
from lockgate.classifiers import ProbeTap
from lockgate.errors import ConfigError
from lockgate.gateway._admission import PLACES_PER_STREAM
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._guarding import describe_guard, scoring_of
from lockgate.gateway._options import EngineOptions, default_kv_tokens
from lockgate.gateway._remote import Arrival, Order, RemoteStepper
from lockgate.gateway._stepper import ModelGone, Wiring
from lockgate.guards import Guard
from lockgate.vllm import engine_arguments, require_vllm

__all__ = ["VllmModel", "check_vllm", "vllm_gateway"]

_FORBIDDEN = -100.0  # vLLM's lowest bias
_LONGEST_BLOCK = 128
_UNKNOWN = "the model ended a request for a reason that the server does not know"


class VllmModel:
    """A guarded vLLM engine, as a `RemoteModel`.

    Args:
        arguments: keyword arguments of vLLM's `EngineArgs`, from `lockgate.vllm.engine_arguments`.
        outputs: columns of a row.

    Raises:
        ConfigError: vLLM is missing, has another version, or refuses the arguments.
    """

    def __init__(self, arguments: Mapping[str, Any], outputs: int) -> None:
        self._vllm = require_vllm()
        self._outputs = outputs
        try:
            args = self._vllm.EngineArgs(**arguments)
            self._engine = self._vllm.LLMEngine.from_engine_args(args, enable_multiprocessing=True)
        except Exception as error:  # vLLM raises many kinds of errors; its own log says more
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"vLLM did not start: {first}; its log is above") from error
        config = self._engine.vllm_config
        self.kv_tokens: int = config.cache_config.num_gpu_blocks * config.cache_config.block_size
        self.context_length: int = config.model_config.max_model_len
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")

    @property
    def alive(self) -> bool:
        """Whether the engine's process runs."""
        return not self._engine.engine_core.resources.engine_dead

    def submit(self, order: Order) -> None:
        """Start an order. Raises ModelGone."""
        prompt = {"prompt_token_ids": order.prompt}
        with self._noticing_its_end():
            self._engine.add_request(order.id, prompt, self._params(order))

    def step(self) -> list[Arrival]:
        """Wait for the next results. Raises ModelGone if the engine's process has ended."""
        with self._noticing_its_end():
            outputs = self._engine.step()
        return [self._arrival(output) for output in outputs]

    def abort(self, order_id: str) -> None:
        """Stop an order. An engine that has ended is no error."""
        with suppress(ModelGone), self._noticing_its_end():
            self._engine.abort_request([order_id])

    def close(self) -> None:
        """End the engine's processes."""
        self._engine.engine_core.shutdown()

    @contextmanager
    def _noticing_its_end(self) -> Iterator[None]:
        """Turn what vLLM raises after its engine has ended into ModelGone."""
        dead = self._vllm.v1.engine.exceptions.EngineDeadError
        try:
            yield
        except Exception as error:
            if isinstance(error, dead) or not self.alive:
                raise ModelGone("vLLM's engine has ended; its log says why") from error
            raise

    def _params(self, order: Order) -> Any:  # noqa: ANN401 - vLLM's SamplingParams
        how, regions = order.sampling, order.regions
        bias = {**how.logit_bias, **dict.fromkeys(order.banned, _FORBIDDEN)}
        return self._vllm.SamplingParams(
            max_tokens=order.max_tokens,
            temperature=how.temperature,
            top_p=how.top_p or 1e-6,
            top_k=how.top_k,
            seed=order.seed,
            presence_penalty=how.presence_penalty,
            frequency_penalty=how.frequency_penalty,
            logit_bias=bias,
            stop_token_ids=sorted(order.ends),
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
            extra_args={
                "lockgate": {
                    "start": regions.start,
                    "prompt_start": regions.prompt_start,
                    "answer_start": regions.answer_start,
                }
            },
        )

    def _arrival(self, output: Any) -> Arrival:  # noqa: ANN401 - vLLM's RequestOutput
        done = output.outputs[0]
        note = (output.kv_transfer_params or {}).get("lockgate")
        first, rows = 0, None
        if note is not None:
            first = note["first"]
            rows = np.frombuffer(note["rows"], dtype=np.float32).reshape(note["n"], self._outputs)
        ended, fault = None, None
        match done.finish_reason, done.stop_reason:
            case None, _:
                pass
            case "stop", str() as reason:
                fault = f"vLLM: {reason}"
            case "stop" | "length" as reason, _:
                ended = reason
            case _, str() as reason:
                fault = f"vLLM: {reason}"
            case _:
                fault = _UNKNOWN
        return Arrival(output.request_id, list(done.token_ids), first, rows, ended, fault)


def check_vllm(options: GatewayOptions) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        MissingExtra: vLLM is not installed here.
        ConfigError: the mode is `off`, or vLLM has another version.
    """
    if options.engine.mode == "off":
        raise ConfigError("mode off: vLLM without a guard needs no Lockgate; start vLLM itself")
    require_vllm()


def vllm_gateway(
    guard: Guard,
    source: str | Path,
    options: GatewayOptions,
    *,
    name: str | None = None,
    eager: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> Gateway:
    """Make a gateway whose model runs in vLLM. vLLM is started.

    The guard's backbone stays in this process too. It renders, it checks vLLM's scores when the gateway warms
    up, and it serves the second stage.

    Args:
        guard: the guard.
        source: its folder, or `embedded`, which vLLM's processes read.
        name: name of the guard that clients see.
        eager: run without compiling.
        extra: more arguments of vLLM's `EngineArgs`.

    Raises:
        ConfigError: the mode is `off`, vLLM is missing or has another version, or refuses an argument.
    """
    check_vllm(options)
    engine = options.engine
    backbone, scoring = guard.backbone, scoring_of(guard)
    arguments = engine_arguments(
        source,
        backbone.source,
        release="scored" if engine.mode == "enforce" else "shadow",
        dtype=backbone.identity.dtype,
        max_streams=PLACES_PER_STREAM * engine.max_streams,
        cache_bytes=_cache_bytes(backbone, engine),
        eager=eager,
        extra=dict(extra or {}),
    )

    def make(wiring: Wiring) -> RemoteStepper:
        model = VllmModel(arguments, guard.head.n_outputs)
        return RemoteStepper(backbone, scoring, model, wiring, expect=_reader(guard))

    made = Gateway(backbone, scoring, options, describe_guard(guard, name), make)
    made.guard_folder = guard.path
    return made


def _cache_bytes(backbone: Backbone, options: EngineOptions) -> int | None:
    """Return the memory for keys and values. None lets vLLM take what its device has."""
    tokens = options.kv_tokens
    if tokens is None:
        if torch.cuda.is_available():
            return None
        tokens = default_kv_tokens(backbone.context_length, options.max_streams)
    config = backbone.model.config.get_text_config()
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    one: int = 2 * backbone.n_layers * heads * width * backbone.model.dtype.itemsize
    # vLLM gives out whole blocks, at most this long.
    return (tokens + _LONGEST_BLOCK * PLACES_PER_STREAM * options.max_streams) * one


def _reader(guard: Guard) -> Callable[[RenderedChat], NDArray[np.float32]]:
    @torch.inference_mode()
    def read(chat: RenderedChat) -> NDArray[np.float32]:
        backbone, ids = guard.backbone, chat.token_ids
        tap = ProbeTap([guard.head], backbone.hidden_size, backbone.device)
        with SessionPool(backbone, len(ids)) as pool:
            session = pool.open(len(ids), ids[: chat.prefix_length])
            pool.step([Feed(session, ids[chat.prefix_length :])], tap)
        return np.asarray(tap.logits.cpu().numpy())

    return read
