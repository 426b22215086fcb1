"""The backbone: any local causal language model. It reads packed tokens and shows its activations."""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lockgate.backbones._attention import ATTENTION_NAME, KeyValues, PackedStep, Segment, to_device
from lockgate.backbones._chat import ChatRenderer, RenderedChat
from lockgate.backbones._embedded import embedded_identity, embedded_is_ready, embedded_path
from lockgate.backbones._folder import (
    check_folder,
    find_folder,
    find_template,
    hash_tensors,
    hash_weights,
    name_of,
    quantisation_of,
)
from lockgate.backbones._placement import DTYPES, Placement, choose_placement, require_memory, stored_dtypes
from lockgate.backbones._selftest import SelfCheck, require_self_test, self_test
from lockgate.backbones._taps import Tap, attach
from lockgate.backbones._tree import TreeStep
from lockgate.backbones._vocabulary import AnswerTokeniser
from lockgate.errors import BackboneError, ConfigError
from lockgate.exchanges import Message

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_FINGERPRINT_TOKENS = 32
_LAYER_CONVENTION = "0-based block outputs, before the final norm"


@dataclass(frozen=True, slots=True)
class BackboneIdentity:
    """The identity of a backbone, by which a guard recognises the backbone it was made for.

    Attributes:
        name: name of the model.
        hashes: hashes of weights, tokenizer and template. They must match exactly.
        dtype: precision in which the model is loaded.
        device: kind of the device that computes: `cpu`, `cuda` or `mps`.
        fingerprint: logits after 32 fixed tokens. They must match within a tolerance.
        layer_convention: how layers are numbered and where they are read.
    """

    name: str
    hashes: dict[str, Any]
    dtype: str
    fingerprint: tuple[float, ...]
    layer_convention: str = _LAYER_CONVENTION
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form that `guard.yaml` holds."""
        return {
            "name": self.name,
            "hashes": self.hashes,
            "dtype": self.dtype,
            "device": self.device,
            "layer_convention": self.layer_convention,
            "fingerprint": [round(value, 5) for value in self.fingerprint],
        }


class Backbone:
    """A causal language model with its tokenizer and its chat template, ready for packed steps.

    Attributes:
        n_layers, hidden_size: shape of the activations.
        context_length: tokens that one session can hold.
        source: the argument of `load`, so that another process can load the same backbone.
        eos_ids: tokens that end a turn.
        control_ids: tokens that no text becomes. Sampling must not emit them either, except `eos_ids`.
        tap: the tap that sees the activations now, if any; set by `use_tap`.
        turn: held by the thread whose pass runs, or that copies the modules. Otherwise a pass would be shown
            to the tap of another thread, or to none.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerFast",
        *,
        name: str,
        source: str = "",
        hashes: dict[str, Any] | None = None,
        chat: ChatRenderer | None = None,
    ) -> None:
        self.model = model.eval()
        self.source = source
        self.tokenizer = tokenizer
        self.name = name
        self._hashes = hashes
        self._folder: Path | None = None
        self._quantised = False
        config = model.config.get_text_config()
        self._decoder = model.get_decoder()
        self.layers: torch.nn.ModuleList = _decoder_layers(self._decoder, config, name)
        self.n_layers = len(self.layers)
        self.hidden_size: int = config.hidden_size
        self.context_length: int = config.max_position_embeddings
        self.vocab_size: int = config.vocab_size
        self._final_softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self._logit_scale = float(getattr(config, "logit_scale", 1.0)) / float(
            getattr(config, "logits_scaling", 1.0)
        )
        embeddings = model.get_input_embeddings().weight.shape[0]
        self.chat = chat or ChatRenderer(tokenizer, embeddings)
        if chat is None:
            require_self_test(self.chat, tokenizer, name, embeddings)
        self.eos_ids = frozenset(_eos_ids(model, tokenizer, self.chat))
        self.control_ids = frozenset(token for token in self.chat.control_ids if token < self.vocab_size)
        self.device: torch.device = next(model.parameters()).device
        self.tap: Tap | None = None
        self._handles: list[RemovableHandle] = []
        self.turn = threading.RLock()

    @classmethod
    def load(
        cls, source: str | Path = "embedded", *, device: str = "auto", dtype: str | torch.dtype = "auto"
    ) -> "Backbone":
        """Load the embedded backbone, or any local Hugging Face causal language model.

        Nothing is downloaded and no remote code is run.

        Args:
            source: folder of a model, or `embedded`.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. `auto` is the first of CUDA, MPS and CPU that is
                there.
            dtype: `auto`, `float32`, `bfloat16` or `float16`. `auto` is float32; on CUDA it is bfloat16 for a
                checkpoint of 16 bits. A quantised checkpoint keeps its own precision.

        Raises:
            ConfigError: the device or precision is unknown, not there, or not that of a quantised checkpoint.
            BackboneError: there is no usable model at `source`, or its weights are larger than the memory.
        """
        from transformers import AutoModelForCausalLM

        hashes, path = None, Path(source)
        choose_placement(device, dtype)  # a wrong name or device is an error before anything is read
        if str(source) == "embedded":
            if not embedded_is_ready():
                raise BackboneError("the embedded backbone is not on this machine yet; run: lockgate fetch")
            path, hashes = embedded_path(), embedded_identity()
        else:
            path = find_folder(path)
        quantised = quantisation_of(path, check_folder(path)) is not None
        placed = choose_placement(device, dtype, stored=stored_dtypes(path))
        require_memory(path, placed, quantised=quantised)
        try:
            with without_progress_bars():
                model, loading = AutoModelForCausalLM.from_pretrained(
                    str(path),
                    dtype="auto" if quantised else getattr(torch, placed.dtype),
                    # A quantised model can't be moved to a device afterwards.
                    device_map=placed.device if quantised else None,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    attn_implementation=ATTENTION_NAME,
                    output_loading_info=True,
                )
                tokenizer = load_tokenizer(path)
        except BackboneError:
            raise
        except Exception as error:  # the library raises many kinds of errors for a folder it can't read
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(f"{path}: not loadable as a causal language model: {first}") from error
        if missing := sorted(loading["missing_keys"]):
            # The library would fill them with random numbers and continue.
            raise BackboneError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}")
        name = hashes["name"] if hashes else name_of(path)
        model = model if quantised else model.to(placed.device)
        made = cls(model, tokenizer, name=name, source=str(source), hashes=hashes)
        made._folder, made._quantised = path, quantised
        if quantised and str(dtype) != "auto" and made.placement.dtype != placed.dtype:
            raise ConfigError(
                f"dtype {placed.dtype}: {path} is quantised and keeps its own precision, "
                f"{made.placement.dtype}; leave --dtype out"
            )
        return made

    @property
    def placement(self) -> Placement:
        """The device that computes, and the precision."""
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return Placement(str(self.device), dtype)

    @cached_property
    def identity(self) -> BackboneIdentity:
        """Hashes of weights, tokenizer and template, and the logits after 32 fixed tokens."""
        hashes = self._hashes or {
            "kind": "huggingface",
            "tensors_sha256": self._hash_weights(),
            "tokenizer_sha256": hash_tokenizer(self.tokenizer),
        }
        return BackboneIdentity(
            self.name,
            {**hashes, **self.chat.template.hashes},
            self.placement.dtype,
            self._fingerprint(),
            device=self.placement.kind,
        )

    def _hash_weights(self) -> str:
        if self._folder is not None and self._quantised:
            # Quantised weights are rearranged in memory when they are first used, so their files are hashed.
            return hash_weights(self._folder)
        stored = set() if self._folder is None else stored_dtypes(self._folder)
        if self._folder is None or self.placement.dtype == "float32" or stored == {self.placement.dtype}:
            return hash_tensors(sorted(self.model.state_dict().items()))
        # The loaded weights have lost digits, so those of the files are read again.
        from transformers import AutoModelForCausalLM

        exact = stored.pop() if len(stored) == 1 and stored <= set(DTYPES) else "float32"
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                str(self._folder),
                dtype=getattr(torch, exact),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        return hash_tensors(sorted(model.state_dict().items()))

    @property
    def is_quantised(self) -> bool:
        """Whether the weights were loaded from a quantised checkpoint, which keeps its own precision."""
        return self._quantised

    def drop_weights(self) -> None:
        """Free the weights. The backbone still renders, tokenises and decodes, and can read nothing more.

        Its identity stays. Backbones that share weights with this one keep them, and so does a quantised one.
        """
        if self._quantised or not self.identity:  # the identity is computed while the weights are here
            return
        with self.turn:
            self.use_tap(None)
            self.model.to("meta")

    def self_test(self) -> list[SelfCheck]:
        """Check that tokenizer and template do what a guard relies on.

        `load` refuses a model that fails, so a loaded backbone has passed.
        """
        return self_test(self.chat, self.tokenizer, self.model.get_input_embeddings().weight.shape[0])

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> RenderedChat:
        """Tokenise a conversation. No text in it can become a control token (see `ChatRenderer.render`)."""
        return self.chat.render(messages, add_generation_prompt=add_generation_prompt)

    def tokenise_answer(self) -> AnswerTokeniser:
        """Return a tokeniser for an answer that still arrives. It gives the tokens that `render` does."""
        return AnswerTokeniser(self.chat.vocabulary.encode_answer_tokens)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens, without control tokens."""
        text: str = self.tokenizer.decode(
            [token for token in token_ids if token not in self.control_ids],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text

    def use_tap(self, tap: Tap | None) -> None:
        """Show activations to `tap` from now on, and to no other tap. None removes all hooks.

        Hooks stay in place from step to step. Installing thirty hooks for each token would cost more than
        running them. They belong to the backbone, because several pools may step it in turn, and no pool may
        see the tokens of another.
        """
        if tap is self.tap:
            return
        for handle in self._handles:
            handle.remove()
        self._handles, self.tap = [], None
        if tap is not None:
            self._handles = attach(tap, self.layers)
            self.tap = tap

    @torch.inference_mode()
    def forward(self, token_ids: Sequence[int], positions: Sequence[int], packed: PackedStep) -> Tensor:
        """Run one packed pass.

        Returns:
            The final hidden states `[tokens, hidden]`, after the final norm.
        """
        return self._pass(token_ids, positions, packed)

    def forward_trees(self, token_ids: Sequence[int], trees: TreeStep) -> Tensor:
        """Run one pass over token trees, without memory. Gradients flow to parameters that require them.

        Returns:
            The final hidden states `[tokens, hidden]`, after the final norm.
        """
        positions = torch.cat([block.positions for block in trees.blocks]).tolist()
        return self._pass(token_ids, positions, trees)

    def _pass(
        self, token_ids: Sequence[int], positions: Sequence[int], packed: PackedStep | TreeStep
    ) -> Tensor:
        numbers = to_device(torch.tensor([token_ids, positions]), self.device)
        output = self._decoder(
            input_ids=numbers[:1],
            position_ids=numbers[1:],
            use_cache=False,
            packed=packed,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def next_token_logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits `[rows, vocab]` of final hidden states `[rows, hidden]`."""
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        return self._finish_logits(logits)

    def token_logits(self, hidden: Tensor, token_ids: Sequence[int]) -> Tensor:
        """Return the float32 logits `[rows, tokens]` of a few tokens only. This is cheap; gradients flow."""
        head: Any = self.model.get_output_embeddings()
        chosen = torch.tensor(token_ids, device=hidden.device)
        bias: Tensor | None = getattr(head, "bias", None)
        found = torch.nn.functional.linear(
            hidden, head.weight[chosen], None if bias is None else bias[chosen]
        )
        return self._finish_logits(found.float())

    def _finish_logits(self, logits: Tensor) -> Tensor:
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        if self._final_softcap is not None:
            logits = torch.tanh(logits / self._final_softcap) * self._final_softcap
        return logits

    def flops_per_token(self, context: float) -> float:
        """Return the FLOPs of one token after `context` others, without embedding and head.

        A multiply-add counts as two operations.
        """
        weights = sum(p.numel() for p in self.layers.parameters())
        config = self.model.config.get_text_config()
        heads: int = config.num_attention_heads
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        return 2.0 * weights + 4.0 * self.n_layers * heads * head_dim * context

    def _fingerprint(self) -> tuple[float, ...]:
        stride = max(1, self.vocab_size // _FINGERPRINT_TOKENS)
        ids = [(7 + i * stride) % self.vocab_size for i in range(_FINGERPRINT_TOKENS)]
        memory = KeyValues(_FINGERPRINT_TOKENS)
        packed = PackedStep([Segment(memory, 0, _FINGERPRINT_TOKENS, 0)])
        with self.turn:
            self.use_tap(None)
            hidden = self.forward(ids, list(range(_FINGERPRINT_TOKENS)), packed)
        logits = self.next_token_logits(hidden[-1:])[0]
        return tuple(float(value) for value in logits[ids])


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the library's progress bars, which would appear in the error output of every command."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _decoder_layers(decoder: torch.nn.Module, config: "PretrainedConfig", name: str) -> torch.nn.ModuleList:
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or not all(
        hasattr(layer, "self_attn") for layer in layers
    ):
        raise BackboneError(
            f"{name}: {type(decoder).__name__} is not a plain decoder of attention blocks; not supported"
        )
    if unknown := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise BackboneError(f"{name}: layers of type {', '.join(sorted(unknown))} are not supported")
    return layers


def _eos_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", chat: ChatRenderer) -> set[int]:
    found: set[int] = set(chat.end_of_turn_ids)
    for value in (tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)):
        if isinstance(value, int):
            found.add(value)
        elif value:
            found.update(value)
    return found


def load_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """Load a folder's tokenizer, with its chat template."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # Take the tokenizer as its file says: AutoTokenizer may replace rules by the model's type.
    kind = PreTrainedTokenizerFast if (path / "tokenizer.json").is_file() else AutoTokenizer
    made: PreTrainedTokenizerFast = kind.from_pretrained(
        str(path), local_files_only=True, trust_remote_code=False
    )
    made.chat_template = find_template(path, made.chat_template)
    return made


def hash_tokenizer(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Hash what the tokenizer does. Padding or truncation that a caller left in it does not count."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["padding"] = state["truncation"] = None  # neither has any effect here, see `Vocabulary`
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
