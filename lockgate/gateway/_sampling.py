"""Sampling of the next token: penalties, bias, temperature and nucleus. Each stream has its own generator."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

# Nucleus sampling looks at this many of the most probable tokens before it sorts the whole vocabulary.
NUCLEUS_HEAD = 512


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. With `seed=None` the seed is derived from the request, so answers repeat."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    token_id: int
    logprob: float | None


def stream_seed(request: object, seed: int | None, choice: int) -> int:
    """Compute the seed of a choice from its number and `seed`, or else the request."""
    basis = ["seed", seed] if seed is not None else ["request", request]
    digest = hashlib.sha256(msgspec.json.encode([basis, choice], order="sorted")).digest()
    return int.from_bytes(digest[:8], "big")


class Sampler:
    """The sampler of one stream. It holds a random generator and counts the tokens that it has drawn."""

    def __init__(self, params: SamplingParams, seed: int, banned: NDArray[np.int64]) -> None:
        self._params = params
        self._generator = np.random.default_rng(seed)
        self._banned = banned
        self._counts: dict[int, int] = {}
        self._bias_ids = np.fromiter(params.logit_bias.keys(), dtype=np.int64)
        self._bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)

    def sample(self, logits: NDArray[np.float32]) -> Sample:
        """Draw from next-token logits `[vocab]`, left unchanged. Raises ValueError if none is finite."""
        scores = self._adjust(logits)
        if not np.isfinite(scores.max()):
            raise ValueError("the model gave no finite logit for the next token")
        token = int(scores.argmax()) if self._greedy else self._draw(scores)
        self._counts[token] = self._counts.get(token, 0) + 1
        logprob = _log_probability(logits, token) if self._params.logprobs else None
        return Sample(token, logprob)

    @property
    def _greedy(self) -> bool:
        return self._params.temperature == 0 or self._params.top_k == 1 or self._params.top_p == 0

    def _adjust(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = logits.copy()
        if self._bias_ids.size:
            scores[self._bias_ids] += self._bias
        presence, frequency = self._params.presence_penalty, self._params.frequency_penalty
        if self._counts and (presence or frequency):
            ids = np.fromiter(self._counts.keys(), dtype=np.int64)
            counts = np.fromiter(self._counts.values(), dtype=np.float32)
            scores[ids] -= presence + frequency * counts
        # This comes last, so that no bias can allow a control token.
        scores[self._banned] = -np.inf
        return scores

    def _draw(self, scores: NDArray[np.float32]) -> int:
        params = self._params
        ids: NDArray[np.int64] | None = None
        if params.top_k and params.top_k < scores.size:
            ids = np.argpartition(scores, -params.top_k)[-params.top_k :]
            scores = scores[ids]
        weights = _softmax(scores, params.temperature)
        if params.top_p < 1:
            nucleus = _nucleus(weights, params.top_p)
            weights = weights[nucleus]
            ids = nucleus if ids is None else ids[nucleus]
        cumulative = np.cumsum(weights)
        index = int(np.searchsorted(cumulative, self._generator.random() * cumulative[-1], side="right"))
        index = min(index, weights.size - 1)
        return index if ids is None else int(ids[index])


def _softmax(scores: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    shifted = (scores - scores.max()).astype(np.float64) / temperature
    weights = np.exp(shifted)
    return np.asarray(weights / weights.sum())


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Return indices of the smallest set of most probable tokens with a total of at least `top_p`."""
    head = min(NUCLEUS_HEAD, weights.size)
    ids = np.argpartition(weights, -head)[-head:]
    if weights[ids].sum() < top_p:
        ids = np.arange(weights.size)
    ids = ids[np.argsort(-weights[ids], kind="stable")]
    kept = int(np.searchsorted(np.cumsum(weights[ids]), top_p, side="left")) + 1
    return np.asarray(ids[:kept], dtype=np.int64)


def _log_probability(logits: NDArray[np.float32], token: int) -> float:
    top = float(logits.max())
    return float(logits[token]) - top - float(np.log(np.exp(logits - top, dtype=np.float64).sum()))
