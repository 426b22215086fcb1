"""The prompt of an exchange, and fingerprints that recognise prompts and near ones without their text."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lockgate.errors import ExchangeError
from lockgate.exchanges._record import Exchange
from lockgate.exchanges.shingles import SHINGLE_WORDS, normalise_text, shingle_text, sign_shingles, text_hash

# Only the lowest byte of each MinHash is kept: 128 bytes a prompt. Bytes are equal by chance once in 256.
_BANDS, _ROWS = 32, 4
_SIZE = _BANDS * _ROWS
# `find_duplicates` verifies a Jaccard index of 0.7 on the texts. Without texts there is only an estimate with
# a standard deviation of 0.04. The limit is two deviations higher, so that a reported match is a real one.
NEAR = 0.78

Kind = Literal["equal", "near"]


def prompt_group(exchange: Exchange) -> str:
    """Return the key of an exchange's prompt. Prompts with one key count as one prompt.

    The key is the `text_hash` of the last user message, or of all messages' text if there is no user message.
    """
    return text_hash(prompt_text(exchange))


def prompt_text(exchange: Exchange) -> str:
    """Return the last user message, or all messages' text if there is none. `prompt_group` hashes it."""
    for message in reversed(exchange.messages):
        if message.role == "user":
            return message.content
    return "\n".join(message.content for message in exchange.messages)


class PromptMatch(NamedTuple):
    """A match with a known prompt.

    Attributes:
        kind: "equal" after normalisation, or "near".
        value: estimated Jaccard index; 1 for an equal prompt.
    """

    kind: Kind
    value: float


@dataclass(frozen=True, eq=False)
class PromptPrints:
    """Distinct prompts as 64-bit hashes and one-byte MinHash signatures: 136 bytes each.

    A prompt is the last user message of an exchange, as in `prompt_group`. Somebody who guesses a text can
    look it up here. The text can't be read from the prints.

    Attributes:
        hashes: hashes of the normalised prompts, ascending [N].
        signatures: MinHash signatures of their word 5-grams, in the same order [N, 128].
    """

    hashes: NDArray[np.uint64]
    signatures: NDArray[np.uint8]

    @classmethod
    def of(cls, exchanges: Iterable[Exchange]) -> "PromptPrints":
        """Make prints of all distinct prompts of exchanges."""
        return cls.of_texts(prompt_text(row) for row in exchanges)

    @classmethod
    def of_texts(cls, prompts: Iterable[str]) -> "PromptPrints":
        """Make prints of prompts that are given as texts."""
        found: dict[int, NDArray[np.uint8]] = {}
        for text in prompts:
            key = int(text_hash(text), 16)
            if key not in found:
                found[key] = _sign(text)
        return cls._sorted(list(found), list(found.values()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PromptPrints":
        """Read a file that `save` wrote.

        Raises:
            ExchangeError: the file is damaged, or not a file of prints. The error names it.
        """
        source = Path(path)
        try:
            content = load_file(source)
            hashes, signatures = content["hashes"], content["signatures"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ExchangeError(
                f"{source}: not a readable file of prompt fingerprints ({type(error).__name__})"
            ) from None
        fits = hashes.dtype == np.uint64 and signatures.dtype == np.uint8
        if not fits or signatures.shape != (*hashes.shape, _SIZE):
            raise ExchangeError(f"{source}: expected a hash of 64 bits and {_SIZE} bytes for each prompt")
        return cls(hashes, signatures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prints to a safetensors file."""
        Path(path).write_bytes(save({"hashes": self.hashes, "signatures": self.signatures}))

    def __len__(self) -> int:
        return len(self.hashes)

    def __or__(self, other: "PromptPrints") -> "PromptPrints":
        """Return the prints of both sets of prompts."""
        found = dict(zip(self.hashes.tolist(), self.signatures, strict=True))
        found |= dict(zip(other.hashes.tolist(), other.signatures, strict=True))
        return self._sorted(list(found), list(found.values()))

    def holds(self, groups: Sequence[str]) -> NDArray[np.bool_]:
        """Say which prompts, given as `prompt_group` keys [M], are known. Other keys never match."""
        keys = [int(group, 16) if _is_hash(group) else None for group in groups]
        known = set(self.hashes.tolist())
        return np.array([key in known for key in keys], dtype=bool)

    def find(self, prompts: Sequence[str]) -> list[PromptMatch | None]:
        """Find the best match of each prompt, or None: an equal prompt first, then the nearest one."""
        equal = self.holds([text_hash(text) for text in prompts])
        return [
            PromptMatch("equal", 1.0) if same else self._find_near(_sign(text))
            for text, same in zip(prompts, equal, strict=True)
        ]

    def _find_near(self, signature: NDArray[np.uint8]) -> PromptMatch | None:
        met: set[int] = set()
        for key, (keys, rows) in zip(_band_keys(signature[None])[0], self._bands, strict=True):
            start, end = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
            met.update(rows[start:end].tolist())
        if not met:
            return None
        agreeing = (self.signatures[sorted(met)] == signature).mean(axis=1)
        value = float((agreeing.max() - 1 / 256) / (1 - 1 / 256))
        return PromptMatch("near", value) if value >= NEAR else None

    @cached_property
    def _bands(self) -> list[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        """Sorted keys of all prompts and their rows, for each band."""
        keys = _band_keys(self.signatures)
        orders = np.argsort(keys, axis=0, kind="stable")
        return [(keys[orders[:, band], band], orders[:, band]) for band in range(_BANDS)]

    @classmethod
    def _sorted(cls, keys: list[int], signatures: list[NDArray[np.uint8]]) -> "PromptPrints":
        hashes = np.array(keys, dtype=np.uint64)
        order = np.argsort(hashes)
        rows = np.array(signatures, dtype=np.uint8).reshape(len(keys), _SIZE)
        return cls(hashes[order], rows[order])


def _sign(text: str) -> NDArray[np.uint8]:
    signature = sign_shingles(shingle_text(normalise_text(text), SHINGLE_WORDS), _SIZE)
    return (signature & np.uint32(255)).astype(np.uint8)


def _band_keys(signatures: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return one number for each band [N, bands]. Numbers are equal where all bytes of the band are."""
    return np.ascontiguousarray(signatures).view(np.uint32).reshape(len(signatures), _BANDS)


def _is_hash(group: str) -> bool:
    return len(group) == 16 and all(letter in "0123456789abcdef" for letter in group)
