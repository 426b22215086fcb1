import pytest
from models import tiny_backbone

from lockgate.errors import ConfigError
from lockgate.exchanges import Message
from lockgate.synthesis import CachedGenerator, Completion, EmbeddedGenerator, GenerationRequest, RequestCache


def ask(text: str, **options) -> GenerationRequest:
    return GenerationRequest(
        (Message("user", text),), **{"max_tokens": 8, "temperature": 1.0, "seed": 1, **options}
    )


def test_answers_depend_on_the_requests_own_seed() -> None:
    generator = EmbeddedGenerator(tiny_backbone(), streams=2)
    requests = [ask("why", seed=1), ask("why", seed=2), ask("why", seed=1), ask("how", max_tokens=3)]
    outcomes = generator.generate(requests)
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert outcomes == generator.generate(requests)
    assert outcomes[0] == outcomes[2] != outcomes[1]
    assert outcomes[3].completion_tokens <= 3
    assert all(outcome.finish_reason in ("stop", "length") for outcome in outcomes)
    assert generator.usage.requests == 8
    assert generator.usage.completion_tokens == 2 * sum(outcome.completion_tokens for outcome in outcomes)


def test_what_does_not_fit_is_a_failure_of_that_request_alone() -> None:
    generator = EmbeddedGenerator(tiny_backbone())
    fits, not_at_all = generator.generate([ask("why"), ask("why " * 600)])
    assert isinstance(fits, Completion)
    assert not_at_all.reason == "too_long"


def test_cached_answers_are_those_of_the_whole_call(tmp_path) -> None:
    requests = [ask(f"why {i}") for i in range(3)]
    with RequestCache(tmp_path / "answers.sqlite") as cache:
        first = CachedGenerator(EmbeddedGenerator(tiny_backbone()), cache)
        outcomes = first.generate(requests)
        again = EmbeddedGenerator(tiny_backbone())
        assert CachedGenerator(again, cache).generate(requests) == outcomes
        assert again.usage.requests == 0


def test_only_dtypes_that_are_tried_are_taken() -> None:
    with pytest.raises(ConfigError, match="bfloat16"):
        EmbeddedGenerator.load(dtype="int8")


def test_bfloat16_writes_and_has_a_name_of_its_own(saved_backbone) -> None:
    path = str(saved_backbone("llama"))
    half = EmbeddedGenerator.load(path, dtype="bfloat16")
    assert isinstance(half.generate([ask("why")])[0], Completion)
    assert half.name != EmbeddedGenerator.load(path).name
