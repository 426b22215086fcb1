"""What a client can tell from the pieces of an answer: whether the second stage was asked, and how close it came.

    python -m benchmarks.side_channel --output results/side_channel.json
    python -m benchmarks.side_channel --questions 5
    python -m benchmarks.side_channel --show results/side_channel.json    # what docs/security.md says about it

Serves the embedded model with the guard `stand-in` twice, once for each setting of `limits.release`, and streams answers to
permitted questions: the twins of the queries about stage magic, as they are and in disguises, and harmless ones. Each
request goes to both servers, one after the other, in turn, with one seed, so both write the same answer and a busy machine
slows both alike. The decision logs say which exchanges the second stage was asked about, and the scores. Only answers that
passed count: a halt shows by itself.

`characters` and `tokens` are the largest piece, `gap` is the largest gap between pieces over the median one, and `first` is
the wait for the first piece over that. `auroc` compares each with whether the second stage was asked. `closeness` is the
rank correlation, over the exchanges that it was asked about, with the mixed score less the threshold that flags. `cost` is
the time by blocks over the time by tokens, for the first piece and the whole answer: the median over questions asked of
both. Intervals hold the middle 95 % of resamples, in which questions are drawn with replacement, each with all its
disguises and seeds. A figure is null where it has no meaning, such as the rank of a constant.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.idle import report, serving
from lockgate.decisions import Decision, read_decisions
from lockgate.evaluation import Clusters
from lockgate.guards import bundle_folder, read_bundle
from lockgate.redteam import Query, load_queries
from lockgate.redteam.attacks import attacks_named

GUARD = "stand-in"
RELEASES = ("token", "block")
SETS = ("stage-magic", "stage-magic-practice")
DISGUISES = ("history", "exam", "completion", "refutation", "persona", "verse")
HARMLESS = Path(__file__).parents[1] / "recipes" / "embedded_guard" / "live_benign.txt"
TEMPERATURE = 0.7
THREADS = 1  # one core for the server that answers, the others for its client
CONFIDENCE = 0.95
RESAMPLES = 2000
STATISTICS = {
    "characters": "largest piece in characters",
    "tokens": "largest piece in tokens",
    "gap": "largest gap over the median one",
    "first": "wait for the first piece over the median gap",
}
Floats = NDArray[np.float64]
# Of two columns [N], for each of B weightings [B, N] of their rows.
Statistic = Callable[[Floats, Floats, Floats], Floats]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is sent. `base` names the question that it is a form of."""

    base: str
    kind: str
    messages: Sequence[dict[str, str]]
    seed: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer: seconds since the request was sent, characters and tokens."""

    at: float
    characters: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client has of an answer, and what the server's log says about it."""

    asked: Asked
    pieces: Sequence[Piece]
    decision: Decision


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, help="of each kind; by default all that this benchmark has")
    parser.add_argument("--seeds", type=int, default=1, help="answers to each form of a question")
    parser.add_argument("--tokens", type=int, default=40, help="longest answer")
    parser.add_argument("--output", type=Path, help="result file; without it, standard output alone")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing; print a result's words")
    arguments = parser.parse_args()
    if arguments.show is not None:
        print("\n\n".join(words(json.loads(arguments.show.read_text()))))
        return
    prompts = list(questions(arguments.seeds, arguments.questions))
    begun = time.monotonic()
    seen = measure(prompts, arguments.tokens)
    settings = {
        "guard": GUARD,
        "threads": THREADS,
        "max_tokens": arguments.tokens,
        "temperature": TEMPERATURE,
    }
    settings |= {"seeds": arguments.seeds, "disguises": list(DISGUISES), "confidence": CONFIDENCE}
    found = {"cores": os.cpu_count(), "minutes": round((time.monotonic() - begun) / 60, 1), **settings}
    report(found | summary(seen), arguments.output)


def questions(seeds: int, most: int | None = None) -> Iterator[Asked]:
    """Yield the questions: each twin as it is and in two of the disguises, and the harmless ones."""
    attacks = {attack.name: attack for attack in attacks_named(DISGUISES)}
    twins = [found for name in SETS for query in load_queries(name).queries if (found := twin(query))]
    for number, query in enumerate(twins[:most]):
        own = (DISGUISES[number % len(DISGUISES)], DISGUISES[(number + 2) % len(DISGUISES)])
        for kind in ("plain", *own):
            attempt = next(attacks[kind].play(query, number))
            messages = [{"role": one.role, "content": one.content} for one in attempt.messages]
            for seed in range(seeds):
                yield Asked(query.id, kind, messages, seed)
    lines = HARMLESS.read_text(encoding="utf-8").splitlines()
    # Every third one, so that a run takes minutes.
    for number, line in enumerate(lines[::3][:most]):
        for seed in range(seeds):
            yield Asked(f"harmless-{number}", "harmless", [{"role": "user", "content": line}], seed)


def twin(query: Query) -> Query | None:
    """Return the permitted twin of a query as a query of its own; None if it has none."""
    if query.twin is None:
        return None
    own = {"text": query.twin.text, "answers": (query.twin.answer,), "twin": None, "translations": ()}
    return query.model_copy(update=own)


def measure(prompts: Sequence[Asked], tokens: int) -> dict[str, list[Seen]]:
    """Ask both servers, and return what was seen of each."""
    answers: dict[str, list[tuple[Asked, str, list[Piece]]]] = {release: [] for release in RELEASES}
    with TemporaryDirectory() as name:
        folder = Path(name)
        with ExitStack() as stack:
            clients = {release: stack.enter_context(client_of(folder, release)) for release in RELEASES}
            for client in clients.values():  # the first answers warm up
                stream(client, prompts[0], tokens)
            for number, asked in enumerate(prompts):
                for release in RELEASES if number % 2 else RELEASES[::-1]:
                    answers[release].append((asked, *stream(clients[release], asked, tokens)))
        logs = {
            release: {one.id: one for one in read_decisions(folder / f"{release}.db")} for release in RELEASES
        }
    return {
        release: [Seen(asked, pieces, logs[release][id_]) for asked, id_, pieces in answers[release]]
        for release in RELEASES
    }


@contextmanager
def client_of(folder: Path, release: str) -> Iterator[httpx2.Client]:
    """Yield a client of a server of its own that lets answers leave by `release`."""
    path = folder / f"{release}.yaml"
    log = str(folder / f"{release}.db")
    settings = {"guard": GUARD, "threads": THREADS, "log": {"path": log}, "limits": {"release": release}}
    path.write_text(yaml.safe_dump(settings))
    with (
        serving(["--config", str(path)]) as (_, url),
        httpx2.Client(base_url=url, timeout=120, trust_env=False) as client,
    ):
        yield client


def stream(client: httpx2.Client, asked: Asked, tokens: int) -> tuple[str, list[Piece]]:
    """Stream one answer. Return its id and its pieces."""
    body = {
        "model": "any", "messages": asked.messages, "stream": True, "max_tokens": tokens, "seed": asked.seed,
        "temperature": TEMPERATURE, "logprobs": True,
    }  # fmt: skip
    pieces, answer, begun = [], "", time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            at = time.perf_counter() - begun
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            answer = chunk.get("id") or answer
            for choice in chunk.get("choices", ()):
                if text := choice["delta"].get("content"):
                    # A log-probability for each token: so a client can count them.
                    count = len((choice.get("logprobs") or {}).get("content") or ())
                    pieces.append(Piece(at, len(text), count))
    return answer, pieces


def statistics(pieces: Sequence[Piece]) -> dict[str, float]:
    """Return what a client can compute from the pieces of an answer. It is NaN where there are too few."""
    if not pieces:
        return dict.fromkeys(STATISTICS, math.nan)
    gaps = np.diff([piece.at for piece in pieces])
    usual = float(np.median(gaps)) if len(gaps) > 1 else math.nan
    return {
        "characters": float(max(piece.characters for piece in pieces)),
        "tokens": float(max(piece.tokens for piece in pieces)),
        "gap": float(gaps.max()) / usual if len(gaps) > 1 else math.nan,
        "first": pieces[0].at / usual,
    }


def summary(seen: dict[str, list[Seen]]) -> dict[str, Any]:
    """Return the figures of both settings, and what blocks cost."""
    cascade = read_bundle(bundle_folder(GUARD)).record.cascade
    if cascade is None:
        raise RuntimeError(f"{GUARD} has one stage")
    found = {release: figures(rows, cascade.flag) for release, rows in seen.items()}
    return {"stride": cascade.stride, "resamples": RESAMPLES, "release": found, "cost": cost(seen)}


def figures(rows: Sequence[Seen], flag: float) -> dict[str, Any]:
    """Return what the pieces of one setting tell."""
    passed = [row for row in rows if row.decision.decision == "pass" and row.pieces]
    asked = np.array([float(row.decision.stage == 2) for row in passed])
    close = np.array([mixed - flag if (mixed := mixed_of(row)) is not None else math.nan for row in passed])
    bases = np.array([row.asked.base for row in passed])
    values = [statistics(row.pieces) for row in passed]
    told: dict[str, Any] = {"auroc": {}, "closeness": {}}
    for name in STATISTICS:
        column = np.array([one[name] for one in values])
        known = np.isfinite(column)
        told["auroc"][name] = estimate(area, column[known], asked[known], bases[known])
        known &= np.isfinite(close)
        told["closeness"][name] = estimate(rank_correlation, column[known], close[known], bases[known])
    counts = {"exchanges": len(rows), "passed": len(passed), "asked": int(asked.sum())}
    return {**counts, "questions": len(set(bases)), **told}


def mixed_of(row: Seen) -> float | None:
    """Return the mixed score of an exchange; None if the second stage was not asked."""
    return None if row.decision.scores is None else row.decision.scores.mixed


def estimate(of: Statistic, first: Floats, second: Floats, bases: NDArray[Any]) -> dict[str, Any]:
    """Return a figure of two columns with its interval by questions."""
    about = {"n": len(first), "questions": len(set(bases))}
    value = float(of(first, second, np.ones((1, len(first))))[0]) if len(first) else math.nan
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, **about}
    weights = Clusters(bases, RESAMPLES).row_weights()
    drawn = np.concatenate([of(first, second, some) for some in weights])
    low, high = np.nanpercentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4), **about}


def area(scores: Floats, positive: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve for each weighting `[B, N]`; NaN without one of the classes."""
    above = (weights * (1 - positive)) @ _order(scores).T
    ones, others = weights * positive, weights * (1 - positive)
    return _over((ones * above).sum(axis=1), ones.sum(axis=1) * others.sum(axis=1))


def rank_correlation(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Return Spearman's rank correlation for each weighting `[B, N]`; NaN if a column is constant."""
    ranks = [weights @ _order(column).T for column in (first, second)]
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    squares = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    return _over((weights * a * b).sum(axis=1), np.sqrt(squares))


def _order(column: Floats) -> Floats:
    """Return for each pair of rows 1 if the first one is larger, and one half if both are the same."""
    return (np.sign(column[:, None] - column[None, :]) + 1) / 2


def _over(part: Floats, whole: Floats) -> Floats:
    # Ranks are multiples of one half, so a smaller square is a rounding of 0.
    return np.divide(part, whole, out=np.full_like(part, math.nan), where=whole > 1e-6)


def median(values: Floats, _: Floats, weights: Floats) -> Floats:
    """Return the median for each weighting `[B, N]` by whole numbers."""
    return np.array([np.median(np.repeat(values, one)) for one in weights.astype(np.intp)])


def cost(seen: dict[str, list[Seen]]) -> dict[str, Any]:
    """Return the time by blocks over the time by tokens, for the first piece and for the whole answer."""
    pairs = [
        (a, b)
        for a, b in zip(seen["token"], seen["block"], strict=True)
        if a.pieces and b.pieces and a.decision.decision == b.decision.decision == "pass"
    ]
    bases = np.array([a.asked.base for a, _ in pairs])
    found = {}
    for name, place in (("first", 0), ("whole", -1)):
        ratios = np.array([b.pieces[place].at / a.pieces[place].at for a, b in pairs])
        found[name] = estimate(median, ratios, ratios, bases)
    return found


def words(found: dict[str, Any]) -> list[str]:
    """Return what the document says about a result: a table, and parts of sentences."""
    rows = ["| what a client computes | asked? by token | by block | how close? by token | by block |"]
    rows.append("|---|---|---|---|---|")
    for name, meaning in STATISTICS.items():
        cells = [
            _shown(found["release"][release][figure][name])
            for figure in ("auroc", "closeness")
            for release in RELEASES
        ]
        rows.append(f"| {meaning} | {' | '.join(cells)} |")
    told = [
        f"{counts['asked']} of {counts['passed']} answers by {release}"
        for release in RELEASES
        if (counts := found["release"][release])
    ]
    costs = [f"{_shown(found['cost'][name])} times" for name in ("first", "whole")]
    questions = f"{found['release']['token']['questions']} questions"
    return ["\n".join(rows), *told, questions, *costs]


def _shown(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


if __name__ == "__main__":
    main()
