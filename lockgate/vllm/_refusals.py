"""What a guarded vLLM refuses: settings and requests with which a token could leave without its score.

Both functions read vLLM's objects by name, so that they can be tested without vLLM.
"""

from typing import Any

from lockgate.errors import ConfigError
from lockgate.vllm._settings import Release

VERSION = "0.32"


def check_config(config: Any, release: Release) -> None:  # noqa: ANN401 - vLLM's VllmConfig
    """Check vLLM's configuration. Lockgate's worker and scheduler do this at start, wherever it comes from.

    Raises:
        ConfigError: a setting is refused. The message names it and the reason.
    """
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    passes = config.compilation_config.pass_config
    speculative = config.speculative_config
    events = config.kv_events_config
    refused = {
        "pipeline_parallel_size": (
            parallel.pipeline_parallel_size > 1,
            "each rank has only some of the layers that the probe reads",
        ),
        "context parallelism": (
            parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1,
            "a rank has only some of the tokens",
        ),
        "enable_dbo": (parallel.use_ubatching, "a step's tokens come in several passes"),
        "enable_lora": (config.lora_config is not None, "an adapter changes what the probe reads"),
        "kv_transfer_config": (
            config.kv_transfer_config is not None,
            "tokens that are computed elsewhere have no scores here",
        ),
        "ec_transfer_config": (config.ec_transfer_config is not None, "only text is scored"),
        "kv_events_config": (
            events is not None and events.enable_kv_cache_events,
            "its events hold tokens that are not scored yet",
        ),
        "weight_transfer_config": (
            config.weight_transfer_config is not None,
            "a guard belongs to the weights that it was made for",
        ),
        "speculative_config": (
            speculative is not None and speculative.method != "ngram",
            "of the speculative methods only n-gram drafts were tried",
        ),
        "enable_sp": (
            bool(getattr(passes, "enable_sp", False)),
            "sequence parallelism divides the tokens among ranks",
        ),
        "VLLM_USE_V2_MODEL_RUNNER": (
            config.use_v2_model_runner,
            "the probe is built for the first model runner; set it to 0",
        ),
        "runner": (model.runner_type != "generate", "only models that write text are guarded"),
        "model": (
            model.is_multimodal_model or model.is_encoder_decoder,
            "only decoders that read text alone are guarded",
        ),
        "enable_prompt_embeds": (
            model.enable_prompt_embeds,
            "embeddings in place of tokens are not rendered",
        ),
        "kv_sharing_fast_prefill": (cache.kv_sharing_fast_prefill, "it skips layers that the probe reads"),
        "load_format": (config.load_config.load_format == "dummy", "random weights fit no guard"),
        "stream_interval": (
            release != "cleared" and config.scheduler_config.stream_interval != 1,
            "the front end would drop scores on their way to the gateway; leave it at 1",
        ),
    }
    for name, (found, reason) in refused.items():
        if found:
            raise ConfigError(f"vLLM with Lockgate's guard does not run with {name}: {reason}")


def refuse_request(request: Any, *, seeds: bool = True) -> str | None:  # noqa: ANN401 - vLLM's Request
    """Return why a request is refused, without any of its text; None if it is fine.

    Args:
        seeds: whether this engine can sample with a seed.
    """
    params = request.sampling_params
    if params is None or request.pooling_params is not None:
        return "pooling"
    if params.logprobs is not None or params.logprob_token_ids:
        return "logprobs: they would leave before the tokens are scored"
    if not seeds and params.seed is not None and params.temperature > 0:
        # On processors vLLM 0.32 ends, with all of its requests, if such a prompt comes in pieces.
        return "seed: on processors it needs --no-enable-chunked-prefill"
    if params.prompt_logprobs is not None:
        return "prompt_logprobs"
    if request.lora_request is not None:
        return "LoRA"
    if request.mm_features:
        return "inputs other than text"
    if request.prompt_embeds is not None or request.prompt_token_ids is None:
        return "prompt embeddings"
    if request.resumable:
        return "streaming inputs"
    if request.kv_transfer_params or request.ec_transfer_params:
        return "transfer of cached tokens"
    return None
