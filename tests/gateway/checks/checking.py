"""Exchanges for tests of checks, and the scores that the same exchanges have in a file."""

from hypothesis import strategies as st
from models import random_head, tiny_backbone

from lockgate.exchanges import Exchange, Message
from lockgate.gateway import Scoring
from lockgate.guards import ExchangeScore, score_exchanges

BACKBONE = tiny_backbone("llama")
HEAD = random_head(BACKBONE)
PROMPT = [{"role": "user", "content": "why does the lock hold"}]
ANSWER = "the lock holds the water back between two gates, and lets the boat through."
TEXTS = st.lists(
    st.sampled_from(["the", " lock", " holds", "\n", " don't", " 12", ".", "é", "你好", " 🙂"]), max_size=30
).map("".join)
# How far a threshold lies above a score: far enough that packing does not decide.
MARGINS = st.floats(-0.5, 0.5).filter(lambda margin: abs(margin) > 1e-3)


def score_of(scoring: Scoring, *messages: Message) -> ExchangeScore:
    """The score of a conversation in a file."""
    [score] = next(score_exchanges(BACKBONE, [scoring.stages], [Exchange(messages)]))
    return score


def offline(scoring: Scoring, answer: str, prompt: str = PROMPT[0]["content"]) -> ExchangeScore:
    """The score of a prompt with its answer in a file."""
    return score_of(scoring, Message("user", prompt), Message("assistant", answer))


def prompt_tokens(prompt: str = PROMPT[0]["content"]) -> int:
    return len(BACKBONE.render([Message("user", prompt)], add_generation_prompt=True).token_ids)


def answer_tokens(answer: str) -> int:
    return len(BACKBONE.chat.vocabulary.encode_answer(answer))
