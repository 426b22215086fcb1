"""Loading any local model, and recognising it later."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from models import save_tiny, tiny_backbone, tiny_model, tiny_tokenizer, tokenizer_for
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.backbones._attention import ATTENTION_NAME
from lockgate.backbones.generation import generate_answers
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

PROMPT = [Message("user", "why does the lock hold the water")]


@pytest.mark.parametrize("architecture", ["llama", "qwen2_sliding", "qwen3", "gemma2", "gemma3"])
def test_a_saved_model_is_loaded_as_it_was(saved_backbone, architecture) -> None:
    loaded, made = Backbone.load(saved_backbone(architecture)), tiny_backbone(architecture)
    assert (loaded.n_layers, loaded.hidden_size, loaded.context_length) == (3, 32, 512)
    assert loaded.identity.hashes == made.identity.hashes
    assert loaded.identity.fingerprint == pytest.approx(made.identity.fingerprint, abs=1e-4)
    assert loaded.render(PROMPT).token_ids == made.render(PROMPT).token_ids
    assert loaded.eos_ids == made.eos_ids
    assert json.loads(json.dumps(loaded.identity.to_dict()))["dtype"] == "float32"


def test_identity_tells_models_tokenizers_and_templates_apart(saved_backbone, tmp_path) -> None:
    first = Backbone.load(saved_backbone("llama")).identity
    other_weights = tiny_backbone("llama", seed=1).identity
    assert {k for k in first.hashes if first.hashes[k] != other_weights.hashes[k]} == {"tensors_sha256"}
    assert first.fingerprint != pytest.approx(other_weights.fingerprint, abs=0.05)
    shutil.copytree(saved_backbone("llama"), tmp_path / "b")
    template = next((tmp_path / "b").glob("chat_template.jinja"))
    template.write_text(template.read_text() + "{# changed #}")
    changed = Backbone.load(tmp_path / "b").identity
    assert {k for k in first.hashes if first.hashes[k] != changed.hashes[k]} == {"template_sha256"}


def test_identity_does_not_depend_on_how_the_tokenizer_was_used(saved_backbone) -> None:
    fresh, used = Backbone.load(saved_backbone("llama")), Backbone.load(saved_backbone("llama"))
    used.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert fresh.identity.hashes == used.identity.hashes


def damage(path: Path, what: str) -> None:
    weights = path / "model.safetensors"
    if what == "no config":
        (path / "config.json").unlink()
    elif what == "bad config":
        (path / "config.json").write_text("{")
    elif what == "unknown model":
        (path / "config.json").write_text('{"model_type": "no-such-model"}')
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "a tensor missing":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif what == "other shapes":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    elif what == "no template":
        (path / "chat_template.jinja").unlink()
    elif what == "no tokenizer":
        for file in path.glob("tokenizer*"):
            file.unlink()


@pytest.mark.parametrize(
    "what",
    [
        "no config",
        "bad config",
        "unknown model",
        "no weights",
        "cut weights",
        "a tensor missing",
        "other shapes",
        "no template",
        "no tokenizer",
    ],
)
def test_damaged_directories_are_one_clear_error(tmp_path, saved_backbone, what) -> None:
    path = shutil.copytree(saved_backbone("llama"), tmp_path / "model")
    damage(path, what)
    with pytest.raises(BackboneError) as caught:
        Backbone.load(path)
    assert "\n" not in str(caught.value)


def test_no_such_directory_and_no_embedded_weights(tmp_path, monkeypatch) -> None:
    with pytest.raises(BackboneError, match=r"config.json is missing"):
        Backbone.load(tmp_path / "nowhere")
    monkeypatch.setenv("LOCKGATE_HOME", str(tmp_path))
    with pytest.raises(BackboneError, match="run: lockgate fetch"):
        Backbone.load("embedded")


@pytest.mark.parametrize(
    ("config", "expected"),
    [(GraniteConfig, {"logits_scaling": 8.0}), (CohereConfig, {"logit_scale": 0.25})],
)
def test_logits_are_scaled_as_the_model_does(config, expected) -> None:
    tokenizer = tiny_tokenizer()
    made = config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **expected,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager", dtype=torch.float32).eval()
    ids = list(range(10, 30))
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    model.set_attn_implementation(ATTENTION_NAME)
    backbone = Backbone(model, tokenizer, name="scaled")
    with SessionPool(backbone, 64) as pool:
        found = pool.step([Feed(pool.open(30), ids, True)])[0]
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


def test_other_kinds_of_attention_are_refused() -> None:
    model = tiny_model("qwen3")
    model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(BackboneError, match="chunked_attention are not supported"):
        Backbone(model, tiny_tokenizer(), name="chunked")
    both_ways = tiny_model()
    both_ways.model.layers[1].self_attn.is_causal = False
    backbone = Backbone(both_ways, tiny_tokenizer(), name="both ways")
    with pytest.raises(BackboneError, match="not supported"):
        _ = backbone.identity


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_bulk_answers_are_those_of_the_library_whatever_the_mates(architecture) -> None:
    backbone = tiny_backbone(architecture)
    conversations = [[Message("user", text)] for text in ("why", "the lock holds", "7 gates and a boat", "")]
    together = dict(generate_answers(backbone, conversations, max_tokens=12, temperature=0, streams=3))
    for number, conversation in enumerate(conversations):
        alone = dict(generate_answers(backbone, [conversation], max_tokens=12, temperature=0))
        assert alone[0] == together[number]
    ids = backbone.render(conversations[1], add_generation_prompt=True).token_ids
    model = tiny_model(architecture).eval()
    model.set_attn_implementation("eager")
    banned = sorted(backbone.control_ids - backbone.eos_ids)
    with torch.inference_mode():
        for _ in range(12):
            logits = model(torch.tensor([ids])).logits[0, -1]
            logits[banned] = float("-inf")
            if (token := int(logits.argmax())) in backbone.eos_ids:
                break
            ids.append(token)
    prompt = len(backbone.render(conversations[1], add_generation_prompt=True).token_ids)
    assert backbone.decode(ids[prompt:]).strip() == together[1]


def test_bulk_answers_with_a_seed_repeat_themselves() -> None:
    backbone, conversations = tiny_backbone(), [[Message("user", f"why {i}")] for i in range(3)]

    def answers(seed: int, **options) -> dict[int, str]:
        return dict(
            generate_answers(backbone, conversations, max_tokens=10, temperature=1.0, seed=seed, **options)
        )

    assert answers(1) == answers(1, streams=1)
    assert answers(1) != answers(2)


def test_save_tiny_writes_what_load_reads(tmp_path) -> None:
    backbone = Backbone.load(save_tiny("gemma3", tmp_path / "m", seed=4))
    assert backbone.source == str(tmp_path / "m")
    assert len(tokenizer_for("gemma3")) <= backbone.vocab_size


def test_without_weights_a_backbone_keeps_its_words_and_its_name_and_reads_nothing() -> None:
    whole = tiny_backbone("llama")
    # The model of `tiny_backbone` is shared between tests.
    backbone = Backbone(copy.deepcopy(tiny_model("llama")), tiny_tokenizer(), name=whole.name)
    assert backbone.identity == whole.identity
    backbone.drop_weights()
    assert {parameter.device.type for parameter in backbone.model.parameters()} == {"meta"}
    rendered = backbone.render(PROMPT)
    assert rendered.token_ids == whole.render(PROMPT).token_ids
    assert backbone.decode(rendered.token_ids) == whole.decode(rendered.token_ids)
    assert backbone.identity == whole.identity
    with SessionPool(backbone, 64) as pool, pytest.raises((RuntimeError, NotImplementedError)):
        pool.step([Feed(pool.open(64), rendered.token_ids, want_logits=True)])[0].numpy()
