"""The probe in the compiled graph, with the same rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from driver import asked, reference, run
from models import random_head, tiny_tokenizer
from parts import make_guard

from lockgate.backbones import Backbone
from lockgate.guards import EMBEDDED
from lockgate.vllm import engine_arguments


def started(guard: Path, model: str) -> Any:
    from vllm import EngineArgs, LLMEngine

    arguments = engine_arguments(
        guard,
        model,
        release="scored",
        context=256,
        cache_bytes=48 * 2**20,
        eager=False,
        extra={"disable_log_stats": True},
    )
    made = LLMEngine.from_engine_args(EngineArgs(**arguments))
    assert made.vllm_config.model_config.architectures[0].startswith("Lockgate")
    assert not made.vllm_config.model_config.enforce_eager
    return made


def check(engine: Any, backbone: Backbone, head: Any, tolerance: float) -> None:
    texts = [
        "Tell me a story about a lock keeper.",
        "Name three rivers of Europe.",
        "Why is the sky blue? " * 9,
    ]
    for request in run(engine, [asked(backbone, text, text, 12) for text in texts]).values():
        assert len(request.tokens) == 12
        expected = reference(backbone, head, [*request.prompt, *request.tokens])[request.start :]
        np.testing.assert_allclose(request.rows, expected, atol=tolerance)


def test_the_embedded_model(backbone, head) -> None:
    engine = started(EMBEDDED, MODEL)
    check(engine, backbone, head, 3e-3)
    engine.engine_core.shutdown()


@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Qwen3"])
def test_other_architectures(name, tmp_path) -> None:
    """Small random models. They have a probe on all of their layers."""
    import transformers

    tokenizer = tiny_tokenizer()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    backbone = Backbone.load(tmp_path / "model")
    guard = make_guard(backbone)
    guard.save(tmp_path / "guard")
    engine = started(tmp_path / "guard", str(tmp_path / "model"))
    check(engine, backbone, random_head(backbone), 3e-3)
    engine.engine_core.shutdown()
