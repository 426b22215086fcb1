"""Tiny random models for tests: real architectures, a real tokenizer, no download."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from lockgate.backbones import Backbone
from lockgate.backbones._attention import ATTENTION_NAME
from lockgate.classifiers import ProbeHead

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# It refuses an empty turn too, so a conversation that the model begins can't be put in order.
WARY_GEMMA = (
    "{% for message in messages %}"
    "{% if not message['content'] %}{{ raise_exception('empty turn') }}{% endif %}"
    "{% endfor %}" + GEMMA
)
CORPUS = (
    "the lock holds the water back between two gates and lets the boat through",
    "a canal runs past the mill, the bridge and the orchard; naïve café 水門 🚤",
    "user assistant system what how why when 0 1 2 3 4 5 6 7 8 9 . , ? !",
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some hundred tokens with ChatML control tokens."""
    control = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    return train_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], control, CHATML)


@cache
def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """The same with Gemma's control tokens and a template that has no system role."""
    return _gemma(GEMMA)


@cache
def wary_gemma_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a template that refuses empty turns too."""
    return _gemma(WARY_GEMMA)


def _gemma(template: str) -> PreTrainedTokenizerFast:
    control = {"eos_token": "<eos>", "pad_token": "<pad>", "bos_token": "<bos>"}
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<unused0>"]
    return train_tokenizer(special, control, template)


def train_tokenizer(
    special: list[str], control: dict[str, str], template: str, corpus: Sequence[str] = CORPUS
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **control)
    fast.chat_template = template
    return fast


def tokenizer_for(architecture: str) -> PreTrainedTokenizerFast:
    return (
        wary_gemma_tokenizer()
        if architecture.startswith("gemma") and architecture != "gemma"
        else tiny_tokenizer()
    )


def tiny_model(architecture: str = "llama", seed: int = 0) -> Any:
    """A random model of a few thousand weights.

    `qwen2_sliding`, `gemma2` and `gemma3` have layers with a sliding window of a few tokens, `gemma2` caps
    its logits.
    """
    tokenizer = tokenizer_for(architecture)
    common = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = {
        "llama": lambda: LlamaConfig(**common, tie_word_embeddings=True),
        "qwen2": lambda: Qwen2Config(**common),
        "qwen2_sliding": lambda: Qwen2Config(
            **common, use_sliding_window=True, sliding_window=6, max_window_layers=1
        ),
        "qwen3": lambda: Qwen3Config(**common, head_dim=16),
        "gemma": lambda: GemmaConfig(**common, head_dim=8),
        "gemma2": lambda: Gemma2Config(
            **common, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
        ),
        "gemma3": lambda: Gemma3TextConfig(**common, head_dim=8, sliding_window=7, sliding_window_pattern=2),
    }[architecture]()
    # Wide weights, so that random logits differ enough to make greedy answers varied and stable.
    config.initializer_range = 0.4
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)


@cache
def tiny_backbone(architecture: str = "llama", seed: int = 0) -> Backbone:
    """A tiny random backbone, shared between tests: they must not change it."""
    return Backbone(tiny_model(architecture, seed), tokenizer_for(architecture), name=f"tiny-{architecture}")


def save_tiny(architecture: str, path: Path, seed: int = 0) -> Path:
    """Write a tiny model as a Hugging Face directory."""
    tiny_model(architecture, seed).save_pretrained(path)
    tokenizer_for(architecture).save_pretrained(path)
    return path


def random_head(backbone: Backbone, seed: int = 0, gamma: float = 0.2) -> ProbeHead:
    """A random probe over all layers with two categories."""
    generator = torch.Generator().manual_seed(seed)
    layers = tuple(range(backbone.n_layers))
    weights = (
        torch.randn(3, len(layers), backbone.hidden_size, generator=generator) / backbone.hidden_size**0.5
    )
    return ProbeHead(layers, "residual", weights, torch.zeros(3), gamma, ("first", "second"))
