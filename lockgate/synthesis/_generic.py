"""General steps for any pipeline: generate, map, filter, remove duplicates, split."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lockgate.curation import find_duplicates, grouped_split
from lockgate.exchanges import text_hash
from lockgate.synthesis._endpoint_health import all_unusable, broken
from lockgate.synthesis._reasoning import strip_reasoning
from lockgate.synthesis._requests import Completion, GenerationFailure, GenerationRequest, Outcome
from lockgate.synthesis._rows import Mapped, Reject, Row, row_id
from lockgate.synthesis._step import GeneratorSource, Step, StepContext

Result = Row | Reject | Sequence[Row]

# Once a generator has answered, fewer rows than this may all be bad by themselves.
_FEW = 8


class _FunctionStep(Step):
    """A step made from functions. Their names are part of the configuration; their code is not."""

    def __init__(self, name: str, *, version: str, config: Mapping[str, Any] | None) -> None:
        super().__init__(name, version=version)
        self._config = dict(config or {})
        self._functions: dict[str, str] = {}

    def _use(self, **functions: Callable[..., object]) -> None:
        for role, function in functions.items():
            self._functions[role] = getattr(function, "__qualname__", type(function).__qualname__)

    def config(self) -> Mapping[str, Any]:
        return {**self._config, "functions": self._functions}


class MapStep(_FunctionStep):
    """A step that turns each row into one row, several rows (with `derive_row`), or none (`Reject`).

    Args:
        name: the step's name.
        function: takes the row and its seed.
        version: raise it when the function's output changes.
        config: the settings that the function depends on, as JSON.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Row, int], Result],
        *,
        version: str = "1",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, version=version, config=config)
        self._function = function
        self._use(function=function)

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        for row in rows:
            yield from _settle(row, self._function(row, context.seed(row)), context)


class FilterStep(_FunctionStep):
    """A step that drops each row for which `reason_to_drop` returns a reason. None keeps the row."""

    def __init__(
        self,
        name: str,
        reason_to_drop: Callable[[Row], Reject | str | None],
        *,
        version: str = "1",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, version=version, config=config)
        self._reason = reason_to_drop
        self._use(reason_to_drop=reason_to_drop)

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        for row in rows:
            reason = self._reason(row)
            if reason is None:
                yield row
            else:
                context.reject(row, Reject(reason) if isinstance(reason, str) else reason)


class GenerateStep(_FunctionStep):
    """A step that sends a request for each row and builds rows from the completions.

    A row without a usable completion is tried again with another seed, `attempts` times in all. Then it is
    dropped with the last reason. A model's thoughts before its answer are removed (`strip_reasoning`).

    If every row of a batch is turned away or answered with junk, the step raises GeneratorError. If the
    batch were recorded, its rows would stay lost after the generator is repaired. Batches of one row are
    always accepted. Batches of two to seven rows are accepted once the generator has answered anything.

    Args:
        name: the step's name.
        generator: made once in each process.
        request: makes a request from the row and a seed; None passes the row on unchanged.
        parse: makes rows from the row and the completion; `Reject` if the text is of no use.
        attempts: most requests for a row.
        allow_cut: whether an answer cut at `max_tokens` may be used.
        otherwise: makes rows from a row whose attempts all failed. By default the row is dropped.
        batch_rows: rows of one call. For a `by_batch` generator it decides the answers too.
        version: raise it when a function's output changes.
        config: the settings that the functions depend on, as JSON.
    """

    def __init__(
        self,
        name: str,
        generator: GeneratorSource,
        *,
        request: Callable[[Row, int], GenerationRequest | None],
        parse: Callable[[Row, Completion], Result],
        attempts: int = 1,
        allow_cut: bool = True,
        otherwise: Callable[[Row, Reject], Result] | None = None,
        batch_rows: int = 64,
        version: str = "1",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, version=version, config=config)
        self._generator = generator
        self._request = request
        self._parse = parse
        self.batch_rows = batch_rows
        self.attempts = attempts
        self._allow_cut = allow_cut
        self._otherwise = otherwise
        self._use(request=request, parse=parse)
        if otherwise is not None:
            self._use(otherwise=otherwise)

    def config(self) -> Mapping[str, Any]:
        own = {
            "generator": self._generator.identity,
            "attempts": self.attempts,
            "allow_cut": self._allow_cut,
        }
        return {**super().config(), **own}

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        rows = list(rows)
        results: dict[int, Result] = {}
        open_rows = list(range(len(rows)))
        for attempt in range(self.attempts):
            open_rows = self._ask(rows, open_rows, results, attempt, context)
        for index, row in enumerate(rows):
            result = results[index]
            if isinstance(result, Reject) and self._otherwise is not None:
                context.count(f"otherwise_{result.reason}")
                result = self._otherwise(row, result)
            yield from _settle(row, result, context)

    def _ask(
        self,
        rows: Sequence[Row],
        indices: Sequence[int],
        results: dict[int, Result],
        attempt: int,
        context: StepContext,
    ) -> list[int]:
        """Send requests for these rows, store the results, and return the rows to try again."""
        asked: dict[int, GenerationRequest] = {}
        for index in indices:
            request = self._request(rows[index], context.seed(rows[index], attempt))
            if request is None:
                results[index] = rows[index]
            else:
                asked[index] = request
        if not asked:
            return []
        outcomes = self._generator.get().generate(list(asked.values()))
        if attempt == 0:
            self._refuse_silence(outcomes)
        context.count("requests", len(asked))
        again: list[int] = []
        for index, outcome in zip(asked, outcomes, strict=True):
            results[index] = self._read(rows[index], outcome, context)
            if isinstance(results[index], Reject):
                again.append(index)
        return again

    def _refuse_silence(self, outcomes: Sequence[Outcome]) -> None:
        # Only first attempts are judged: later ones hold only rows that failed before.
        source = self._generator
        source.answered = source.answered or any(isinstance(outcome, Completion) for outcome in outcomes)
        if len(outcomes) >= (_FEW if source.answered else 2) and all_unusable(outcomes):
            raise broken(f"generator {source.name}", outcomes)

    def _read(self, row: Row, outcome: Completion | GenerationFailure, context: StepContext) -> Result:
        if isinstance(outcome, GenerationFailure):
            return Reject(f"generator_{outcome.reason}", outcome.detail)
        context.count("prompt_tokens", outcome.prompt_tokens)
        context.count("completion_tokens", outcome.completion_tokens)
        if not outcome.text.strip():
            return Reject("empty")
        answer = strip_reasoning(outcome.text)
        if answer is None:
            context.count("reasoning_rejected")
            return Reject("reasoning", "what the model thought can't be told from its answer")
        if answer != outcome.text:
            context.count("reasoning_stripped")
            outcome = replace(outcome, text=answer)
        if outcome.finish_reason == "length" and not self._allow_cut:
            return Reject("cut")
        return self._parse(row, outcome)


class DedupStep(_FunctionStep):
    """A step that keeps the first row of each group of equal or nearly equal texts (`find_duplicates`).

    Args:
        name: the step's name.
        text: returns the text to compare.
        threshold: Jaccard index from which two texts are near-duplicates.
        apart: returns a second text. Rows are duplicates only if it is equal after normalisation.
        note: field of `meta` that names the group of each kept row, for grouped splits.
        version: raise it when a function's output changes.
        config: the settings that the functions depend on, as JSON.
    """

    whole: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        text: Callable[[Row], str],
        *,
        threshold: float = 0.7,
        apart: Callable[[Row], str] | None = None,
        note: str = "duplicate_group",
        version: str = "1",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        own = {"threshold": threshold, "note": note}
        super().__init__(name, version=version, config={**(config or {}), **own})
        self._text = text
        self._threshold = threshold
        self._apart = apart
        self._note = note
        self._use(text=text)
        if apart is not None:
            self._use(apart=apart)

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        rows = rows if isinstance(rows, Sequence) else list(rows)
        groups = find_duplicates(Mapped(rows, self._text), threshold=self._threshold)
        first: dict[tuple[str, str], tuple[str, str]] = {}
        for row, group in zip(rows, groups, strict=True):
            exact = text_hash(self._text(row))
            own = group, "" if self._apart is None else text_hash(self._apart(row))
            if own not in first:
                first[own] = (row_id(row), exact)
                yield replace(row, meta={**row.meta, self._note: group})
                continue
            kept, kept_exact = first[own]
            reason = "exact_duplicate" if exact == kept_exact else "near_duplicate"
            context.reject(row, Reject(reason, f"of row {kept}"))


class SplitStep(_FunctionStep):
    """A step that writes the name of each row's part to `meta.split`. Rows that share a key stay together.

    Args:
        name: the step's name.
        keys: returns the group keys of a row (`grouped_split`): duplicate group, attack family, dialogue, ...
        shares: share of the groups for each part.
        seed: another seed gives another split.
        version: raise it when the output of `keys` changes.
        config: the settings that `keys` depends on, as JSON.
    """

    whole: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        keys: Callable[[Row], Sequence[str]],
        shares: Mapping[str, float],
        *,
        seed: int = 0,
        version: str = "1",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        own = {"shares": list(shares.items()), "seed": seed}
        super().__init__(name, version=version, config={**(config or {}), **own})
        self._keys = keys
        self._shares = dict(shares)
        self._seed = seed
        self._use(keys=keys)

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        parts = grouped_split([self._keys(row) for row in rows], self._shares, seed=self._seed)
        for row, part in zip(rows, parts, strict=True):
            context.count(f"rows_{part}")
            yield replace(row, meta={**row.meta, "split": part})


def _settle(row: Row, result: Result, context: StepContext) -> Iterator[Row]:
    if isinstance(result, Reject):
        context.reject(row, result)
    elif isinstance(result, Row):
        yield result
    else:
        yield from result
