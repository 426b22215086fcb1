"""What is refused, on vLLM's own configuration: the names that are checked are its names."""

from typing import Any

import pytest
from conftest import CONTEXT, MODEL

from lockgate.errors import ConfigError
from lockgate.guards import EMBEDDED
from lockgate.vllm import engine_arguments


def configured(**extra: Any) -> Any:
    from vllm import EngineArgs

    arguments = engine_arguments(EMBEDDED, MODEL, release="scored", context=CONTEXT, cache_bytes=2**26)
    return EngineArgs(**{**arguments, **extra}).create_engine_config()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"enable_lora": True}, "enable_lora"),
        ({"stream_interval": 3}, "stream_interval"),
        ({"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}}, "kv_transfer"),
        ({"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}}, "kv_events"),
        ({"additional_config": {}}, "additional_config"),
        ({"load_format": "dummy"}, "load_format"),
    ],
)
def test_a_refused_configuration(extra, named) -> None:
    from lockgate.vllm.scheduler import GuardScheduler
    from lockgate.vllm.worker import GuardWorker

    config = configured(**extra)
    with pytest.raises(ConfigError, match=named):
        GuardScheduler(config, None, None, 128)
    with pytest.raises(ConfigError, match=named):
        GuardWorker(config, 0, 0, "unused")


def test_the_second_model_runner_is_refused(monkeypatch) -> None:
    from lockgate.vllm.scheduler import GuardScheduler

    config = configured()
    assert config.use_v2_model_runner is False
    # vLLM reads the variable once.
    monkeypatch.setattr(type(config), "use_v2_model_runner", True)
    with pytest.raises(ConfigError, match="VLLM_USE_V2_MODEL_RUNNER"):
        GuardScheduler(config, None, None, 128)


def test_the_scheduler_follows_vllms_choice_to_schedule_ahead() -> None:
    from lockgate.vllm.scheduler import GuardAsyncScheduler, GuardScheduler

    config = configured()
    for ahead, kind in ((False, GuardScheduler), (True, GuardAsyncScheduler)):
        config.scheduler_config.async_scheduling = ahead
        assert type(GuardScheduler.__new__(GuardScheduler, config)) is kind
