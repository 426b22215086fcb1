"""The text baseline: hashed n-grams and logistic regression. A probe has to beat it.

Word 1-2-grams and character 3-5-grams are hashed into two parts of 2^bits buckets each. They are weighted by
sublinear TF-IDF, and each part is scaled to unit length. Hashing needs no vocabulary, so a saved baseline is
two arrays and a page of JSON. Weights are rounded to float32 when fitted, so saving does not change scores.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from lockgate._extras import need
from lockgate.classifiers._ngrams import ExchangeReader, TextReader, excerpts_of, normalise
from lockgate.durable import open_atomic
from lockgate.errors import ConfigError, GuardError, TrainingError
from lockgate.exchanges import Exchange, Message, PromptPrints

__all__ = [
    "ExchangeReader",
    "TextBaseline",
    "TextBaselineConfig",
    "TextReader",
    "check_text_target",
    "exchange_text",
]

if TYPE_CHECKING:
    import scipy.sparse as sp
    from sklearn.linear_model import LogisticRegression
TextView = Literal["exchange", "prompt", "answer"]

_FORMAT = 1
_TENSORS = "text_baseline.safetensors"
_CONFIG = "text_baseline.json"
_PROMPTS = "training.safetensors"
_CHUNK = 4096


class CrossValidation(NamedTuple):
    """Mean log loss over held-out prompt groups for one inverse regularisation strength C."""

    c: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class TextBaselineConfig:
    """Settings of a text baseline.

    Attributes:
        view: the part of an exchange that it reads.
        bits: each of the two parts has 2^bits buckets.
        cs: values of C, the inverse regularisation strength, to choose from.
        folds: folds of the cross-validation that chooses C.
        max_iter: largest number of iterations of a fit.
        seed: seed of folds and fits.
        excerpt: characters of the answer's excerpts, which are judged beside the whole text. The highest
            logit counts. 0 judges the whole text alone. A fit reads whole texts.
    """

    view: TextView = "exchange"
    bits: int = 18
    cs: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    folds: int = 5
    max_iter: int = 2000
    seed: int = 0
    excerpt: int = 0

    def __post_init__(self) -> None:
        """Check the excerpts. Raises ConfigError for a length without a half, or a view without answers."""
        if not isinstance(self.excerpt, int) or self.excerpt < 0 or self.excerpt % 2:
            raise ConfigError(f"excerpt: expected an even number of characters, or 0; found {self.excerpt}")
        if self.excerpt and self.view == "prompt":
            raise ConfigError("excerpt: prompts have no answer to take excerpts from; expected 0")


def exchange_text(messages: Sequence[Message], view: TextView) -> str:
    """Return the text of a view, each turn under its role.

    `exchange` gives all turns, `prompt` all turns before the last answer, and `answer` only that answer.
    """
    has_answer = bool(messages) and messages[-1].role == "assistant"
    if view == "answer":
        messages = messages[-1:] if has_answer else ()
    elif view == "prompt" and has_answer:
        messages = messages[:-1]
    turns = []
    for message in messages:
        calls = json.dumps(message.tool_calls, ensure_ascii=False) if message.tool_calls else ""
        turns.append(f"[{message.role}]\n{message.content}\n{calls}")
    return normalise("\n".join(turns))


class TextBaseline:
    """TF-IDF n-grams of an exchange's text, and one linear layer. Its scores are logits of harm.

    Attributes:
        idf, coefficients: float32 [2 * 2^bits], words first.
        intercept: the logit of an empty text.
        training_prompts: fingerprints of the prompts it was fitted on; None if they are not known.
    """

    def __init__(
        self,
        config: TextBaselineConfig,
        *,
        idf: NDArray[np.float32],
        coefficients: NDArray[np.float32],
        intercept: float,
        c: float,
        cross_validation: Sequence[CrossValidation] = (),
        n_rows: int = 0,
        n_groups: int = 0,
        training_prompts: PromptPrints | None = None,
    ) -> None:
        """Take fitted arrays. `idf` and `coefficients` are [2 * 2^bits], words first."""
        self.config = config
        self.c = c
        self.cross_validation = tuple(cross_validation)
        self.n_rows = n_rows
        self.n_groups = n_groups
        self.training_prompts = training_prompts
        self.idf = idf
        self.coefficients = coefficients
        self.intercept = intercept

    @classmethod
    def fit(
        cls, exchanges: Sequence[Exchange], groups: Sequence[str], config: TextBaselineConfig | None = None
    ) -> "TextBaseline":
        """Fit on labelled exchanges. Soft labels count as harmful from 0.5.

        A cross-validation chooses C by the lowest mean log loss. It keeps each group in one fold. IDF comes
        from all rows, including held-out folds, because it sees no label.

        Args:
            exchanges: the rows.
            groups: group (prompt) of each row.
            config: settings; by default those of `TextBaselineConfig`.

        Raises:
            TrainingError: a row has no label, all labels are of one class, there are too few groups, or the
                fit does not converge.
        """
        config = config or TextBaselineConfig()
        labels = _labels(exchanges, groups, config)
        counts = _count([exchange_text(row.messages, config.view) for row in exchanges], config)
        frequency = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = (np.log((1.0 + counts.shape[0]) / (1.0 + frequency)) + 1.0).astype(np.float32)
        features = _weigh(counts, idf)
        table = _cross_validate(features, labels, np.asarray(groups, dtype=str), config)
        best = min(table, key=lambda row: row.log_loss)
        model = _regression(config, best.c)
        _fit_quietly(model, features, labels)
        return cls(
            config,
            idf=idf,
            coefficients=model.coef_[0].astype(np.float32),
            intercept=float(model.intercept_[0]),
            c=best.c,
            cross_validation=table,
            n_rows=len(labels),
            n_groups=len(set(groups)),
        )

    def decision_function(self, exchanges: Iterable[Exchange]) -> NDArray[np.float64]:
        """Return logits [N] in input order. Each row depends on its own exchange alone."""
        scores: list[NDArray[np.float64]] = []
        chunk: list[Exchange] = []
        for exchange in exchanges:
            chunk.append(exchange)
            if len(chunk) == _CHUNK:
                scores.append(self._score(chunk))
                chunk = []
        if chunk:
            scores.append(self._score(chunk))
        return np.concatenate(scores) if scores else np.zeros(0)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights and the settings that decide scores. `save` and `load` keep it."""
        digest = hashlib.sha256(self.idf.tobytes() + self.coefficients.tobytes())
        settings = [self.config.view, self.config.bits, self.intercept]
        # Baselines without excerpts keep the hash that they had before there were any.
        digest.update(json.dumps(settings + [self.config.excerpt] * bool(self.config.excerpt)).encode())
        return digest.hexdigest()

    def rounded(self) -> "TextBaseline":
        """Return the same baseline with weights in half precision. Its file is half as large.

        Its scores differ a little from this one's, and saving does not change them.
        """
        made = copy(self)
        made.__dict__.pop("sha256", None)
        made.idf, made.coefficients = (_halved(part) for part in (self.idf, self.coefficients))
        return made

    def save(self, folder: str | os.PathLike[str], *, prompts: bool = True) -> None:
        """Write weights and configuration into `folder`. The folder is made if it is missing.

        Weights that half precision holds without loss are written in it.

        Args:
            prompts: whether to write the fingerprints of training prompts too.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        record = {
            "format": _FORMAT,
            # Without excerpts the key is left out, so that versions without it can read the file.
            "config": {
                name: value
                for name, value in asdict(self.config).items()
                if name != "excerpt" or self.config.excerpt
            },
            "intercept": self.intercept,
            "c": self.c,
            "cross_validation": [row._asdict() for row in self.cross_validation],
            "n_rows": self.n_rows,
            "n_groups": self.n_groups,
        }
        tensors = {"idf": self.idf, "coefficients": self.coefficients}
        if all(np.array_equal(_halved(part), part) for part in tensors.values()):
            tensors = {name: part.astype(np.float16) for name, part in tensors.items()}
        with open_atomic(target / _TENSORS) as file:
            file.write(save(tensors))
        (target / _PROMPTS).unlink(missing_ok=True)
        if prompts and self.training_prompts is not None:
            self.training_prompts.save(target / _PROMPTS)
        with open_atomic(target / _CONFIG) as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "TextBaseline":
        """Read a baseline that `save` wrote.

        Raises:
            GuardError: a file is missing, damaged or has another format.
            ExchangeError: its fingerprints of training prompts are damaged.
        """
        source = Path(folder)
        record = _read_config(source / _CONFIG)
        try:
            tensors = load_file(source / _TENSORS)
            config = TextBaselineConfig(**(record["config"] | {"cs": tuple(record["config"]["cs"])}))
            rows = [CrossValidation(row["c"], row["log_loss"]) for row in record["cross_validation"]]
            baseline = cls(
                config,
                idf=tensors["idf"].astype(np.float32),
                coefficients=tensors["coefficients"].astype(np.float32),
                intercept=float(record["intercept"]),
                c=float(record["c"]),
                cross_validation=rows,
                n_rows=record["n_rows"],
                n_groups=record["n_groups"],
            )
        except (ConfigError, OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise GuardError(
                f"{source}: text baseline is incomplete or damaged ({type(error).__name__})"
            ) from None
        _check_shapes(source, baseline.idf, baseline.coefficients, config)
        if (source / _PROMPTS).is_file():
            baseline.training_prompts = PromptPrints.load(source / _PROMPTS)
        return baseline

    def _score(self, exchanges: Sequence[Exchange]) -> NDArray[np.float64]:
        texts = [_texts(exchange, self.config) for exchange in exchanges]
        features = _weigh(_count([text for own in texts for text in own], self.config), self.idf)
        scores = np.asarray(features @ self.coefficients.astype(np.float64) + self.intercept)
        firsts = np.cumsum([0, *(len(own) for own in texts[:-1])])
        return np.asarray(np.maximum.reduceat(scores, firsts))


def check_text_target(path: Path) -> None:
    """Check that a text baseline may be written to `path`.

    Raises:
        GuardError: something that is not a text baseline is there.
    """
    if path.exists() and not path.is_dir():
        raise GuardError(f"{path}: is not a folder; a text baseline is a folder, choose another name")
    if path.is_dir() and any(path.iterdir()) and not (path / _CONFIG).is_file():
        raise GuardError(f"{path}: exists and is no text baseline; choose another folder")


def _halved(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return weights.astype(np.float16).astype(np.float32)


def _need(module: str) -> Any:  # noqa: ANN401 - a module
    return need(module, extra="train", feature="the text baseline")


def _texts(exchange: Exchange, config: TextBaselineConfig) -> list[str]:
    """Return what is judged of an exchange: its whole text first, then excerpts of its answer."""
    whole = exchange_text(exchange.messages, config.view)
    last = exchange.messages[-1] if exchange.messages else None
    if not config.excerpt or last is None or last.role != "assistant" or not last.content:
        return [whole]
    return [whole, *excerpts_of(normalise(last.content), config.excerpt)]


def _count(texts: Sequence[str], config: TextBaselineConfig) -> "sp.csr_array":
    """Count hashed n-grams [N, 2 * 2^bits]."""
    sp, text = _need("scipy.sparse"), _need("sklearn.feature_extraction.text")
    shared: dict[str, Any] = {
        "n_features": 2**config.bits,
        "norm": None,
        "alternate_sign": False,
        "dtype": np.float64,
    }
    words = text.HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared)  # noqa: S106
    characters = text.HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **shared)
    return sp.csr_array(sp.hstack([words.transform(texts), characters.transform(texts)], format="csr"))


def _weigh(counts: "sp.csr_array", idf: NDArray[np.float32]) -> "sp.csr_array":
    """Weigh counts by sublinear TF-IDF, with each part of a row at unit length. Empty rows stay zero."""
    weighted = counts.copy()
    weighted.data = (1.0 + np.log(counts.data)) * idf.astype(np.float64)[counts.indices]
    half = counts.shape[1] // 2
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    block = 2 * rows + (counts.indices >= half)
    norms = np.sqrt(np.bincount(block, weights=weighted.data**2, minlength=2 * counts.shape[0]))
    weighted.data = weighted.data / norms[block]
    return weighted


def _labels(
    exchanges: Sequence[Exchange], groups: Sequence[str], config: TextBaselineConfig
) -> NDArray[np.int64]:
    if len(groups) != len(exchanges):
        raise TrainingError(f"{len(groups)} groups for {len(exchanges)} exchanges; expected one each")
    labels = [exchange.label for exchange in exchanges]
    missing = sum(label is None for label in labels)
    if missing:
        raise TrainingError(f"{missing} of {len(labels)} exchanges have no label; leave them out of training")
    if len(set(groups)) < config.folds:
        raise TrainingError(
            f"{len(set(groups))} prompt groups cannot make {config.folds} folds; give more rows"
        )
    hard = np.asarray([label is not None and label >= 0.5 for label in labels], dtype=np.int64)
    if hard.min() == hard.max():
        raise TrainingError(f"all {len(hard)} labels fall on one side of 0.5; training needs both classes")
    return hard


def _cross_validate(
    features: "sp.csr_array", labels: NDArray[np.int64], groups: NDArray[np.str_], config: TextBaselineConfig
) -> list[CrossValidation]:
    metrics = _need("sklearn.metrics")
    splitter = _need("sklearn.model_selection").GroupKFold(
        n_splits=config.folds, shuffle=True, random_state=config.seed
    )
    totals = dict.fromkeys(config.cs, 0.0)
    for train, held_out in splitter.split(features, labels, groups):
        if labels[train].min() == labels[train].max():
            raise TrainingError(
                f"a training fold has one class only: one label's rows share a prompt group; use fewer than "
                f"{config.folds} folds or give more prompts"
            )
        for c in config.cs:
            model = _regression(config, c)
            _fit_quietly(model, features[train], labels[train])
            loss = metrics.log_loss(labels[held_out], model.predict_proba(features[held_out]), labels=[0, 1])
            totals[c] += float(loss) * len(held_out)
    return [CrossValidation(c, total / len(labels)) for c, total in totals.items()]


def _regression(config: TextBaselineConfig, c: float) -> "LogisticRegression":
    # Coordinate descent in the dual. With this many sparse features L-BFGS stops far from the optimum: its
    # tolerance bounds the largest partial derivative, and each derivative is tiny.
    model: LogisticRegression = _need("sklearn.linear_model").LogisticRegression(
        C=c, solver="liblinear", dual=True, max_iter=config.max_iter, random_state=config.seed
    )
    return model


def _fit_quietly(model: "LogisticRegression", features: "sp.csr_array", labels: NDArray[np.int64]) -> None:
    unfinished = _need("sklearn.exceptions").ConvergenceWarning
    # An unfinished fit must not count as a baseline, because it would make the probe look better.
    with warnings.catch_warnings():
        warnings.simplefilter("error", unfinished)
        try:
            model.fit(features, labels)
        except unfinished:
            raise TrainingError(
                f"the text baseline did not converge in {model.max_iter} iterations; raise max_iter"
            ) from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GuardError(f"{path}: cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise GuardError(f"{path}: not a text baseline of format {_FORMAT}; save it again with this version")
    return record


def _check_shapes(
    source: Path, idf: NDArray[np.float32], coefficients: NDArray[np.float32], config: TextBaselineConfig
) -> None:
    expected = (2 * 2**config.bits,)
    if idf.shape != expected or coefficients.shape != expected or config.view not in get_args(TextView):
        raise GuardError(f"{source}: text baseline arrays have shape {idf.shape}; expected {expected}")
