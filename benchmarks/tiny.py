"""A tiny model and a guard for it that flags one character: for measurements in which the model's work is in the way."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.constitution import constitution_path, load_constitution
from lockgate.guards import Guard

MARK = "~"
POLICY = "general-harms"
_LOUD = 1_000.0
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_marking_guard(folder: Path) -> tuple[Path, Path]:
    """Write the model and the guard below a folder. Return the guard's and the model's folder."""
    tokenizer, place = _tokenizer(), folder / "model"
    _model(tokenizer).save_pretrained(place)
    tokenizer.save_pretrained(place)
    backbone = Backbone.load(place)
    weights = torch.zeros(1, 1, backbone.hidden_size)
    weights[0, 0, 0] = 1
    guard = Guard.create(
        name="marking",
        backbone=backbone,
        constitution=load_constitution(POLICY),
        constitution_yaml=constitution_path(POLICY).read_text(),
        head=ProbeHead((0,), "residual", weights, torch.tensor([-_LOUD / 2]), 1.0),
        thresholds=Thresholds(0.0, min_tokens=1, flag_on="both"),
    )
    guard.save(folder / "guard")
    return folder / "guard", place


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte."""
    pieces = [*_CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(_CONTROL))
    end, start, stop = _CONTROL
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=stop, pad_token=end, bos_token=start)
    found.chat_template = _TEMPLATE
    return found


def _model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a random model that puts the mark far out on the first dimension."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        row = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(MARK)]
        row.zero_()
        row[0] = _LOUD
    return model
