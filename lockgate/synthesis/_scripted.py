"""Generators without a model: a table or a function, for tests and for estimates."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from lockgate.synthesis._requests import (
    Completion,
    GenerationFailure,
    GenerationRequest,
    Generator,
    Outcome,
    estimate_tokens,
)
from lockgate.synthesis._usage import Estimate, Usage, count_completion

Script = Mapping[str, str] | Callable[[GenerationRequest], str | Outcome]


class ScriptedGenerator(Generator):
    """A generator that answers from a table (by the text of the last message) or with a function.

    A text counts as a finished completion, even if it is longer than `max_tokens`. If the table lacks the
    message, the outcome is the failure `no_script`.
    """

    def __init__(self, script: Script, *, name: str = "scripted") -> None:
        self.name = name
        self.usage = Usage()
        self._script = script

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        for index, request in enumerate(requests):
            outcome = self._answer(request)
            if isinstance(outcome, Completion):
                count_completion(self.usage, request, outcome)
            else:
                self.usage.failures += 1
            yield index, outcome

    def _answer(self, request: GenerationRequest) -> Outcome:
        if isinstance(self._script, Mapping):
            text = self._script.get(request.messages[-1].content)
            answer: str | Outcome = GenerationFailure("no_script") if text is None else text
        else:
            answer = self._script(request)
        if not isinstance(answer, str):
            return answer
        return Completion(answer, "stop", request.estimated_prompt_tokens, estimate_tokens(answer))


class DryRunGenerator(ScriptedGenerator):
    """A generator that counts a pipeline's requests. `stand_in` gives texts that its parsers accept."""

    def __init__(self, stand_in: Script, *, name: str = "dry-run") -> None:
        super().__init__(stand_in, name=name)
        self.estimate = Estimate()

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        for request in requests:
            self.estimate.add(request)
        yield from super().stream(requests)
