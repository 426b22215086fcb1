"""What is known of a model's folder without loading its weights: tokenizer, template, shape and identity.

Another engine computes the model. It still needs Lockgate's renderer, and the certainty that a guard was made
for these weights.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lockgate.backbones._backbone import hash_tokenizer, load_tokenizer
from lockgate.backbones._chat import ChatRenderer
from lockgate.backbones._embedded import embedded_identity, embedded_is_ready, embedded_path
from lockgate.backbones._folder import (
    check_folder,
    find_folder,
    hash_tensors,
    hash_weights,
    name_of,
    quantisation_of,
)
from lockgate.backbones._selftest import require_self_test
from lockgate.errors import BackboneError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Outline", "read_outline"]


@dataclass(frozen=True, slots=True)
class Outline:
    """A model's folder, without its weights.

    Attributes:
        path: the folder.
        name: the model's name.
        config: content of `config.json`.
        tokenizer, chat: the tokenizer, and the renderer. It has passed the self-test.
        hidden_size, n_layers, context_length, vocab_size: shape of the model.
        eos_ids: tokens that end a turn.
        control_ids: tokens that no text becomes, and that sampling must not emit, except `eos_ids`.
    """

    path: Path
    name: str
    config: dict[str, Any]
    tokenizer: "PreTrainedTokenizerFast"
    chat: ChatRenderer
    hidden_size: int
    n_layers: int
    context_length: int
    vocab_size: int
    eos_ids: frozenset[int]
    control_ids: frozenset[int]

    @property
    def prefixes(self) -> list[list[int]]:
        """The tokens that the template writes before any text, for prompts with and without a system text."""
        user = Message("user", "a")
        found: list[list[int]] = []
        for messages in ([user], [Message("system", "s"), user]):
            try:
                chat = self.chat.render(messages, add_generation_prompt=True)
            except BackboneError:
                continue
            prefix = chat.token_ids[: chat.prefix_length]
            if prefix and prefix not in found:
                found.append(prefix)
        return found

    def hashes(self) -> dict[str, Any]:
        """Return the hashes that `BackboneIdentity` has for this model.

        Tensors are read one by one. This takes about a second for each gigabyte.

        Raises:
            BackboneError: a file with weights is unreadable.
        """
        if self.path.resolve() == embedded_path().resolve() and embedded_is_ready():
            made = embedded_identity()
        else:
            quantised = quantisation_of(self.path, self.config) is not None
            weights = hash_weights(self.path) if quantised else hash_tensors(self._tensors())
            made = {
                "kind": "huggingface",
                "tensors_sha256": weights,
                "tokenizer_sha256": hash_tokenizer(self.tokenizer),
            }
        return {**made, **self.chat.template.hashes}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors one by one, in their names' order."""
        files: dict[str, Path] = {}
        for path in sorted(self.path.glob("*.safetensors")):
            with _opened(path) as file:
                files.update(dict.fromkeys(file.keys(), path))
        source = {name: name for name in files}
        if self.config.get("tie_word_embeddings", False):
            source[_HEAD] = _EMBEDDING
        for name in sorted(source):
            if (holder := files.get(source[name])) is None:
                raise BackboneError(
                    f"{self.path}: the tensor {source[name]} is missing; fetch the whole model"
                )
            with _opened(holder) as file:
                tensor: Tensor = file.get_tensor(source[name])
            yield name, tensor


def read_outline(source: str | Path) -> Outline:
    """Read a model's folder without its weights.

    Args:
        source: folder of a model, or `embedded`.

    Raises:
        BackboneError: there is no usable model, or its tokenizer or template fails the self-test.
    """
    if str(source) == "embedded":
        if not embedded_is_ready():
            raise BackboneError("the embedded backbone is not on this machine yet; run: lockgate fetch")
        path, name = embedded_path(), str(embedded_identity()["name"])
    else:
        path = find_folder(Path(source))
        name = name_of(path)
    config = check_folder(path)
    try:
        tokenizer = load_tokenizer(path)
    except BackboneError:
        raise
    except Exception as error:  # the library raises many kinds of errors for a folder it can't read
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path}: its tokenizer is not loadable: {first}") from error
    shape = {key: config.get(key) for key in _SHAPE}
    if wrong := [key for key, value in shape.items() if not isinstance(value, int)]:
        raise BackboneError(f"{path}/config.json: {', '.join(wrong)}: expected whole numbers")
    hidden, layers, context, vocabulary = (int(config[key]) for key in _SHAPE)
    chat = ChatRenderer(tokenizer, vocabulary)
    require_self_test(chat, tokenizer, name, vocabulary)
    return Outline(
        path=path,
        name=name,
        config=config,
        tokenizer=tokenizer,
        chat=chat,
        hidden_size=hidden,
        n_layers=layers,
        context_length=context,
        vocab_size=vocabulary,
        eos_ids=chat.end_of_turn_ids | _eos_ids(path, tokenizer, config),
        control_ids=frozenset(token for token in chat.control_ids if token < vocabulary),
    )


_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_SHAPE = ("hidden_size", "num_hidden_layers", "max_position_embeddings", "vocab_size")


def _opened(path: Path) -> Any:  # noqa: ANN401 - the library does not type its files
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{path}: not readable as safetensors; fetch the model again") from error


def _eos_ids(path: Path, tokenizer: "PreTrainedTokenizerFast", config: dict[str, Any]) -> frozenset[int]:
    generation = path / "generation_config.json"
    found = config
    if generation.is_file():
        try:
            found = json.loads(generation.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackboneError(f"{generation}: not valid JSON; fetch the model again") from error
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, found.get("eos_token_id")):
        ids.update([value] if isinstance(value, int) else value or ())
    return frozenset(ids)
