"""Engine arguments and the command line of bare vLLM, from one source."""

import json
import os
import sys
from types import ModuleType

import pytest
import torch
from parts import make_guard

from lockgate.backbones import Backbone
from lockgate.backbones.outline import read_outline
from lockgate.errors import BackboneError, BackboneMismatch, ConfigError, MissingExtra
from lockgate.exchanges import Message
from lockgate.vllm import ENVIRONMENT, Settings, command_line, engine_arguments, require_vllm
from lockgate.vllm._identity import check_backbone


@pytest.fixture
def guard(saved_backbone, tmp_path):
    backbone = Backbone.load(saved_backbone("llama"))
    made = make_guard(backbone)
    made.save(tmp_path / "guard")
    return tmp_path / "guard", saved_backbone("llama"), made


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_outline_knows_what_the_loaded_backbone_knows(saved_backbone, architecture, dtype) -> None:
    path = saved_backbone(architecture)
    backbone = Backbone.load(path, dtype=dtype)
    outline = read_outline(path)
    assert outline.hashes() == backbone.identity.hashes
    for name in ("name", "hidden_size", "n_layers", "context_length", "vocab_size", "eos_ids", "control_ids"):
        assert getattr(outline, name) == getattr(backbone, name), name
    messages = [Message("system", "be brief"), Message("user", "what is a lock")]
    for part in (messages, messages[1:]):
        chat = backbone.render(part, add_generation_prompt=True)
        assert outline.chat.render(part, add_generation_prompt=True) == chat
        assert chat.token_ids[: chat.prefix_length] in outline.prefixes


def test_arguments_and_command_line_say_the_same(guard) -> None:
    path, model, _ = guard
    arguments = engine_arguments(
        path, model, release="cleared", context=128, cache_bytes=2**20, max_streams=3
    )
    settings = Settings.read(arguments["additional_config"])
    assert (settings.guard, settings.release) == (path, "cleared")
    assert [list(prefix) for prefix in settings.prefixes] == read_outline(model).prefixes
    words = command_line(arguments, options=["--port", "8000"])
    assert words[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    assert words[-2:] == ["--port", "8000"]
    assert "--enforce-eager" in words
    assert "--no-trust-remote-code" in words
    assert ("--no-enable-chunked-prefill" in words) is not torch.cuda.is_available()
    assert json.loads(words[words.index("--additional-config") + 1]) == arguments["additional_config"]
    assert words[words.index("--kv-cache-memory-bytes") + 1] == str(2**20)
    assert words[words.index("--scheduler-cls") + 1] == "lockgate.vllm.scheduler.GuardScheduler"


def test_a_compiled_model_has_a_class_of_its_own(guard, saved_backbone, tmp_path) -> None:
    path, model, _ = guard
    made = engine_arguments(path, model, release="scored", eager=False)
    assert made["hf_overrides"] == {"architectures": ["LockgateLlamaForCausalLM"]}
    gemma = Backbone.load(saved_backbone("gemma2"))
    make_guard(gemma).save(tmp_path / "gemma")
    with pytest.raises(ConfigError, match="no compiled form"):
        engine_arguments(tmp_path / "gemma", gemma.source, release="scored", eager=False)


def test_extra_arguments_may_not_replace_lockgates_own(guard) -> None:
    path, model, _ = guard
    made = engine_arguments(path, model, release="scored", extra={"seed": 3, "max_num_batched_tokens": 64})
    assert (made["seed"], made["max_num_batched_tokens"]) == (3, 64)
    with pytest.raises(ConfigError, match="scheduler_cls"):
        engine_arguments(path, model, release="scored", extra={"scheduler_cls": "other"})


def test_a_guard_of_another_backbone(guard, saved_backbone) -> None:
    _, model, made = guard
    check_backbone(made.record, read_outline(model), "float32")
    with pytest.raises(BackboneMismatch, match="differs in tensors_sha256"):
        check_backbone(made.record, read_outline(saved_backbone("qwen2")), "float32")
    with pytest.raises(BackboneMismatch, match="--dtype float32"):
        check_backbone(made.record, read_outline(model), "bfloat16")


def test_a_missing_tensor(saved_backbone, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(saved_backbone("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(BackboneError, match=r"model.embed_tokens.weight is missing"):
        read_outline(folder).hashes()


def test_vllm_is_asked_for_its_version(monkeypatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "before")
    older = ModuleType("vllm")
    older.__version__ = "0.31.2"
    monkeypatch.setitem(sys.modules, "vllm", older)
    with pytest.raises(ConfigError, match=r"vLLM 0\.31\.2 is installed.*0\.32"):
        require_vllm()
    assert {name: os.environ[name] for name in ENVIRONMENT} == ENVIRONMENT
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"lockgate\[vllm\]"):
        require_vllm()


def test_importing_the_room_does_not_import_vllm() -> None:
    import lockgate.vllm

    assert lockgate.vllm.Settings
    assert "vllm" not in sys.modules
