"""Tiny random models for tests: real architectures, a real tokenizer, no download."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from lockgate.backbones import Backbone
from lockgate.backbones._attention import ATTENTION_NAME
from lockgate.classifiers import ProbeHead

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
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
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    control = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **control)
    fast.chat_template = CHATML
    return fast


def tiny_model(architecture: str = "llama", seed: int = 0) -> Any:
    """A random model of a few thousand weights: `llama`, `qwen2` or `gemma`."""
    tokenizer = tiny_tokenizer()
    common = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = {
        "llama": lambda: LlamaConfig(**common, tie_word_embeddings=True),
        "qwen2": lambda: Qwen2Config(**common),
        "gemma": lambda: GemmaConfig(**common, head_dim=8),
    }[architecture]()
    # Wide weights, so that random logits differ enough to make greedy answers varied and stable.
    config.initializer_range = 0.4
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)


@cache
def tiny_backbone(architecture: str = "llama", seed: int = 0) -> Backbone:
    """A tiny random backbone, shared between tests: they must not change it."""
    return Backbone(tiny_model(architecture, seed), tiny_tokenizer(), name=f"tiny-{architecture}")


def random_head(backbone: Backbone, seed: int = 0, gamma: float = 0.2) -> ProbeHead:
    """A random probe over all layers with two categories."""
    generator = torch.Generator().manual_seed(seed)
    layers = tuple(range(backbone.n_layers))
    weights = (
        torch.randn(3, len(layers), backbone.hidden_size, generator=generator) / backbone.hidden_size**0.5
    )
    return ProbeHead(layers, "residual", weights, torch.zeros(3), gamma, ("first", "second"))
