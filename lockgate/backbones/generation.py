"""Bulk generation with a backbone: it decodes many answers side by side."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lockgate.backbones._backbone import Backbone
from lockgate.backbones._chat import banned_ids
from lockgate.backbones._sessions import Feed, Session, SessionPool
from lockgate.exchanges import Message

__all__ = ["decode_answers", "generate_answers"]


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer.

    Attributes:
        number: number of the conversation in the input, from 0.
        text: the answer.
        prompt_tokens, completion_tokens: tokens of the prompt and of the answer.
        finished: whether the model ended its turn by itself.
    """

    number: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    finished: bool


@dataclass(slots=True)
class _Stream:
    number: int
    prompt_tokens: int
    session: Session
    random: torch.Generator
    pending: list[int]
    answer: list[int] = field(default_factory=list)


def generate_answers(
    backbone: Backbone,
    conversations: Iterable[Sequence[Message]],
    *,
    max_tokens: int,
    temperature: float = 0.7,
    seed: int = 0,
    streams: int = 48,
) -> Iterator[tuple[int, str]]:
    """Answer conversations, up to `streams` at a time. A finished one makes room for the next.

    Every conversation has its own random numbers, which follow from the seed and its tokens.

    Args:
        max_tokens: longest answer.
        temperature: 0 always takes the likeliest token.

    Yields:
        Number of the conversation and its answer, in the order in which they finish.
    """
    for answer in decode_answers(
        backbone,
        ((messages, seed) for messages in conversations),
        max_tokens=max_tokens,
        temperature=temperature,
        streams=streams,
    ):
        yield answer.number, answer.text


def decode_answers(
    backbone: Backbone,
    conversations: Iterable[tuple[Sequence[Message], int]],
    *,
    max_tokens: int,
    temperature: float = 0.7,
    streams: int = 48,
) -> Iterator[GeneratedAnswer]:
    """Answer conversations like `generate_answers`, with a seed for each of them.

    A conversation that ends with an assistant's message is continued. The answer is then the text after it.

    Yields:
        Answers with their token counts, in the order in which they finish.

    Raises:
        ContextOverflow: a conversation and its answer do not fit the backbone's context.
    """
    banned = torch.tensor(sorted(banned_ids(backbone.control_ids, backbone.eos_ids)), dtype=torch.long)
    queue = enumerate(conversations)
    active: list[_Stream] = []
    with SessionPool(backbone, backbone.context_length * streams, streams=streams) as pool:
        while True:
            while len(active) < streams and (item := next(queue, None)) is not None:
                active.append(_open(pool, item[0], item[1][0], max_tokens, item[1][1]))
            if not active:
                return
            found = pool.step([Feed(stream.session, stream.pending, want_logits=True) for stream in active])
            logits = torch.stack([row for row in found if row is not None]).cpu()
            drawn = _draw(logits, banned, temperature, [stream.random for stream in active])
            for stream, token in zip(list(active), drawn, strict=True):
                finished = token in backbone.eos_ids
                if not finished:
                    stream.answer.append(token)
                    stream.pending = [token]
                    if len(stream.answer) < max_tokens:
                        continue
                active.remove(stream)
                stream.session.close()
                yield _finish(backbone, stream, finished)


def _finish(backbone: Backbone, stream: _Stream, finished: bool) -> GeneratedAnswer:
    text = backbone.decode(stream.answer).strip()
    return GeneratedAnswer(stream.number, text, stream.prompt_tokens, len(stream.answer), finished)


def _open(pool: SessionPool, number: int, messages: Sequence[Message], max_tokens: int, seed: int) -> _Stream:
    begun = messages[-1].role == "assistant"
    chat = pool.backbone.render(messages, add_generation_prompt=not begun)
    tokens = chat.token_ids[: chat.answer_end]
    session = pool.open(len(tokens) + max_tokens, prefix=tokens[: chat.prefix_length])
    digest = hashlib.sha256(repr((seed, tokens)).encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return _Stream(number, len(tokens), session, random, tokens[chat.prefix_length :])


def _draw(
    logits: Tensor, banned: Tensor, temperature: float, randoms: Sequence[torch.Generator]
) -> list[int]:
    """Draw a token for each row of `logits` [streams, vocabulary], each with its own random numbers."""
    logits = logits.index_fill(1, banned, float("-inf"))
    if temperature == 0:
        return logits.argmax(1).tolist()
    # One random number for each token: `multinomial` would take one for each entry of the vocabulary.
    sums = (logits / temperature).softmax(1, dtype=torch.float64).cumsum(1)
    places = [torch.rand((), dtype=torch.float64, generator=random) for random in randoms]
    whole = sums[:, -1:]
    wanted = torch.minimum(torch.stack(places).unsqueeze(1) * whole, whole.nextafter(whole.new_zeros(())))
    # The first sum strictly above the place: a token without probability is never drawn.
    return torch.searchsorted(sums, wanted, right=True).squeeze(1).tolist()
