"""What a guarded vLLM is told, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Made

import pytest
from models import tiny_backbone
from parts import make_guard

from lockgate.errors import ConfigError, GuardError
from lockgate.guards import read_bundle
from lockgate.vllm._refusals import check_config, refuse_request
from lockgate.vllm._settings import Settings, plain_regions, read_probe

SOUND = {"guard": "/guards/one", "release": "cleared"}


def test_settings_survive_the_way_to_another_process() -> None:
    settings = Settings(Path("/guards/one"), "cleared", 1, ((1, 2), (3,)), trust_regions=True, probe="ab")
    assert Settings.read({"lockgate": settings.to_dict()}) == settings
    assert Settings.read({"lockgate": SOUND, "other": 1}) == Settings(Path("/guards/one"), "cleared")


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (None, "additional_config: expected"),
        ({}, "additional_config: expected"),
        ({"lockgate": "guard"}, "additional_config: expected"),
        ({"lockgate": {"release": "scored"}}, "lockgate.guard"),
        ({"lockgate": {**SOUND, "release": "all"}}, "lockgate.release"),
        ({"lockgate": {**SOUND, "stage": 2}}, "lockgate.stage"),
        ({"lockgate": {**SOUND, "prefixes": [1]}}, "lockgate.prefixes"),
        ({"lockgate": {**SOUND, "trust_regions": 1}}, "lockgate.trust_regions"),
        ({"lockgate": {**SOUND, "probe": 1}}, "lockgate.probe"),
        ({"lockgate": {**SOUND, "threshold": 2}}, "unknown keys threshold"),
    ],
)
def test_wrong_settings_are_named(found, named) -> None:
    with pytest.raises(ConfigError, match=named):
        Settings.read(found)


def test_two_stages_do_not_run_in_bare_vllm_unasked() -> None:
    with pytest.raises(ConfigError, match="stage = 1"):
        read_probe(Settings(Path("embedded"), "cleared"))
    alone = read_probe(Settings(Path("embedded"), "cleared", 1))
    assert alone.thresholds == alone.record.thresholds.to_thresholds()
    assert alone.state(plain_regions([1, 2], [])) is not None
    assert read_probe(Settings(Path("embedded"), "scored")).state(plain_regions([1, 2], [])) is None


def test_a_probe_of_another_site_is_refused(tmp_path, monkeypatch) -> None:
    make_guard(tiny_backbone("llama")).save(tmp_path / "guard")
    settings = Settings(tmp_path / "guard", "scored")
    assert read_probe(settings).outputs == 3
    bundle = read_bundle(tmp_path / "guard")
    elsewhere = bundle._replace(head=replace(bundle.head, site="mlp"))
    monkeypatch.setattr("lockgate.vllm._settings.read_bundle", lambda path: elsewhere)
    with pytest.raises(GuardError, match="the site 'mlp'"):
        read_probe(settings)


def test_a_guard_that_was_replaced_is_refused(tmp_path) -> None:
    make_guard(tiny_backbone("llama")).save(tmp_path / "guard")
    found = read_probe(Settings(tmp_path / "guard", "scored")).record.probe_sha256
    assert read_probe(Settings(tmp_path / "guard", "scored", probe=found)).record.probe_sha256 == found
    with pytest.raises(GuardError, match="start vLLM anew"):
        read_probe(Settings(tmp_path / "guard", "scored", probe="0" * 64))


def test_the_longest_prefix_is_not_scored() -> None:
    prefixes = [[1, 2], [1, 2, 3], [9]]
    assert plain_regions([1, 2, 3, 4], prefixes).start == 3
    assert plain_regions([1, 2, 4, 4], prefixes).start == 2
    assert plain_regions([2, 2, 4, 4], prefixes).start == 0
    assert plain_regions([1], prefixes).start == 0


def made_config(**changes) -> Made:
    """A configuration like vLLM's, with only what is checked. `changes` name `part.setting` or `part`."""
    config = Made(
        model_config=Made(
            runner_type="generate",
            is_multimodal_model=False,
            is_encoder_decoder=False,
            enable_prompt_embeds=False,
        ),
        parallel_config=Made(
            pipeline_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            use_ubatching=False,
        ),
        cache_config=Made(kv_sharing_fast_prefill=False),
        compilation_config=Made(pass_config=Made()),
        load_config=Made(load_format="auto"),
        scheduler_config=Made(stream_interval=1),
        speculative_config=None,
        kv_events_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
        weight_transfer_config=None,
        lora_config=None,
        use_v2_model_runner=False,
    )
    for name, value in changes.items():
        part, _, setting = name.partition("__")
        setattr(getattr(config, part) if setting else config, setting or part, value)
    return config


REFUSED = {
    "parallel_config__pipeline_parallel_size": 2,
    "parallel_config__decode_context_parallel_size": 2,
    "parallel_config__prefill_context_parallel_size": 2,
    "parallel_config__use_ubatching": True,
    "lora_config": Made(),
    "kv_transfer_config": Made(),
    "ec_transfer_config": Made(),
    "weight_transfer_config": Made(),
    "kv_events_config": Made(enable_kv_cache_events=True),
    "speculative_config": Made(method="eagle3"),
    "compilation_config__pass_config": Made(enable_sp=True),
    "use_v2_model_runner": True,
    "model_config__runner_type": "pooling",
    "model_config__is_multimodal_model": True,
    "model_config__is_encoder_decoder": True,
    "model_config__enable_prompt_embeds": True,
    "cache_config__kv_sharing_fast_prefill": True,
    "load_config__load_format": "dummy",
    "scheduler_config__stream_interval": 4,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_configuration(name) -> None:
    check_config(made_config(), "scored")
    with pytest.raises(ConfigError, match=r"does not run with .*: "):
        check_config(made_config(**{name: REFUSED[name]}), "scored")


def test_what_is_fine() -> None:
    check_config(made_config(speculative_config=Made(method="ngram")), "scored")
    check_config(made_config(kv_events_config=Made(enable_kv_cache_events=False)), "scored")
    check_config(made_config(scheduler_config__stream_interval=4), "cleared")


def made_request(**changes) -> Made:
    params = {
        "logprobs": None,
        "logprob_token_ids": None,
        "prompt_logprobs": None,
        "seed": None,
        "temperature": 1.0,
    }
    request = {
        "pooling_params": None,
        "lora_request": None,
        "mm_features": [],
        "prompt_embeds": None,
        "prompt_token_ids": [1],
        "resumable": False,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }
    params = Made(**{name: changes.pop(name, value) for name, value in params.items()})
    return Made(sampling_params=params, **{**request, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"logprobs": 0}, "logprobs"),
        ({"logprob_token_ids": [1]}, "logprobs"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"pooling_params": Made()}, "pooling"),
        ({"lora_request": Made()}, "LoRA"),
        ({"mm_features": [1]}, "text"),
        ({"prompt_embeds": 1}, "embeddings"),
        ({"prompt_token_ids": None}, "embeddings"),
        ({"resumable": True}, "streaming"),
        ({"kv_transfer_params": {"a": 1}}, "transfer"),
        ({"ec_transfer_params": {"a": 1}}, "transfer"),
    ],
)
def test_a_refused_request(changes, named) -> None:
    reason = refuse_request(made_request(**changes))
    assert reason is None if named is None else named in reason


def test_a_seed_is_refused_where_it_would_end_the_engine() -> None:
    assert refuse_request(made_request(seed=1)) is None
    assert "seed" in refuse_request(made_request(seed=1), seeds=False)
    assert refuse_request(made_request(seed=1, temperature=0.0), seeds=False) is None
    assert refuse_request(made_request(), seeds=False) is None
