import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_pipeline import stage_steps, topic_rows

import lockgate.synthesis
from lockgate.errors import BudgetExhausted, ConfigError, SynthesisError
from lockgate.exchanges import Exchange, Message, read_exchanges, write_exchanges
from lockgate.synthesis import (
    Batch,
    BatchOutput,
    CachedGenerator,
    Completion,
    DryRunGenerator,
    FilterStep,
    GenerateStep,
    GenerationFailure,
    GenerationRequest,
    Generator,
    GeneratorSource,
    MapStep,
    Pipeline,
    Prices,
    RequestCache,
    ScriptedGenerator,
    Step,
    StepProgress,
    derive_row,
    estimate_requests,
    row_id,
    run_batch,
)
from lockgate.synthesis._rows import Mapped
from lockgate.synthesis._shards import Shards, write_lines


def write_answer(request: GenerationRequest) -> str:
    basis = repr((request.messages, request.seed))
    return "answer " + hashlib.sha256(basis.encode()).hexdigest()[:12]


def scripted() -> ScriptedGenerator:
    return ScriptedGenerator(write_answer)


def data_of(folder: Path) -> dict[str, bytes]:
    """What must be the same in every run: all files but the lock."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.name != ".lock" and p.is_file()
    }


def test_names_are_exported_and_sorted() -> None:
    names = lockgate.synthesis.__all__
    assert names == sorted(names)
    assert all(hasattr(lockgate.synthesis, name) for name in names)


def test_every_row_is_accounted_for_at_every_step(tmp_path) -> None:
    result = Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(24))
    rows = list(result.rows())
    for before, after in itertools.pairwise(result.steps):
        assert after.rows_in == before.rows_out
    for step in result.steps:
        factor = 2 if step.step == "variants" else 1
        assert step.rows_out + step.rejected.total() == factor * step.rows_in
    assert result.steps[0].rows_in == 24
    assert result.steps[3].rejected["exact_duplicate"] > 0
    dropped = list(result.rejected())
    assert len(dropped) == sum(step.rejected.total() for step in result.steps)
    assert {row.meta["rejected"]["step"] for row in dropped} <= {step.step for step in result.steps}
    assert all(row.meta["steps"] == ["queries", "variants"] for row in rows)
    assert all(row.label == 1.0 and row.category == "stage-magic" for row in rows)
    assert {row.meta["split"] for row in rows} <= {"train", "test"}
    assert len({row_id(row) for row in rows}) == len(rows)
    assert json.loads((tmp_path / "report.json").read_bytes()) == result.to_dict()
    assert write_exchanges(tmp_path / "data.jsonl", rows) == len(rows)
    assert list(read_exchanges(tmp_path / "data.jsonl")) == rows


class _Stop(Exception):
    pass


def _run_until(batches: int, stop: type[BaseException], generator: Generator, folder: Path) -> bool:
    """Whether a run that is stopped when more than so many batches are done comes to its end."""
    seen: list[StepProgress] = []

    def progress(step: StepProgress) -> None:
        seen.append(step)
        if len(seen) > batches:
            raise stop

    try:
        Pipeline(stage_steps("scripted", lambda: generator), folder, progress=progress).run(topic_rows(18))
    except stop:
        return False
    return True


@pytest.mark.parametrize("stop", [KeyboardInterrupt, _Stop])
def test_a_run_stopped_after_any_batch_goes_on_where_it_was(tmp_path, stop) -> None:
    whole = Pipeline(stage_steps("scripted", scripted), tmp_path / "whole").run(topic_rows(18))
    expected = data_of(tmp_path / "whole")
    generator = scripted()
    stops = 0
    while not _run_until(stops, stop, generator, tmp_path / "cut"):
        stops += 1
    assert stops > 8
    assert data_of(tmp_path / "cut") == expected
    # Finished batches asked for nothing again.
    assert generator.usage.requests == sum(step.counters["requests"] for step in whole.steps)


def test_a_second_run_runs_nothing(tmp_path) -> None:
    Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(18))
    again = Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(18))
    assert sum(step.rows_run for step in again.steps) == 0


def test_a_change_runs_what_depends_on_it_and_nothing_else(tmp_path) -> None:
    Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(18))
    steps = stage_steps("scripted", scripted)
    steps[3].version = "2"
    again = Pipeline(steps, tmp_path).run(topic_rows(18))
    # The new version drops the same rows, so that what follows finds its input as it was.
    assert [step.step for step in again.steps if step.rows_run] == ["duplicates"]
    steps = stage_steps("another model", scripted)
    steps[3].version = "2"
    other = Pipeline(steps, tmp_path).run(topic_rows(18))
    assert {step.step for step in other.steps if step.rows_run} == {"queries", "answers"}


def test_a_shorter_run_leaves_nothing_of_a_longer_one(tmp_path) -> None:
    Pipeline(stage_steps("scripted", scripted), tmp_path / "used").run(topic_rows(24))
    Pipeline(stage_steps("scripted", scripted), tmp_path / "used").run(topic_rows(8))
    Pipeline(stage_steps("scripted", scripted), tmp_path / "fresh").run(topic_rows(8))
    assert data_of(tmp_path / "used") == data_of(tmp_path / "fresh")


def test_a_damaged_shard_is_made_again(tmp_path) -> None:
    Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(12))
    expected = data_of(tmp_path)
    (tmp_path / "queries" / "000001.jsonl").write_bytes(b"{}\n")
    (tmp_path / "answers" / "000000.jsonl.done").write_bytes(b"{")
    (tmp_path / "plain" / ".000000.jsonl.1.abcd.part").write_bytes(b"half")
    Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(12))
    assert data_of(tmp_path) == expected


def test_an_old_key_never_vouches_for_newer_files(tmp_path) -> None:
    shards = Shards(tmp_path)
    shards.write(0, "old", write_lines([b"1\n"]))

    def dies(write, reject):
        write(b"2\n")
        raise _Stop

    with pytest.raises(_Stop):
        shards.write(0, "new", dies)
    assert shards.find(0, "old") is None
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_rows_on_disk_are_a_sequence(tmp_path) -> None:
    shards = Shards(tmp_path)
    lines = [f"line {number} 水門\n".encode() for number in range(7)]
    for number, part in enumerate((lines[:3], [], lines[3:])):
        shards.write(number, "key", write_lines(part))
    shards.trim(3)
    assert len(shards) == 7
    assert [shards[place] for place in range(7)] == list(shards) == lines
    assert shards[-1] == lines[-1]
    assert Mapped(shards, len)[2:4] == [len(line) for line in lines[2:4]]
    with pytest.raises(IndexError):
        shards[7]


class _BackwardEngine:
    """Another machine: it takes everything, and finishes the last batch first."""

    def map_batches(self, step: Step, batches: Iterable[Batch]) -> Iterator[BatchOutput]:
        outputs = {batch.number: run_batch(step, batch) for batch in reversed(list(batches))}
        yield from (outputs[number] for number in sorted(outputs))


def test_another_engine_gives_the_same_files(tmp_path) -> None:
    Pipeline(stage_steps("scripted", scripted), tmp_path / "here").run(topic_rows(18))
    steps = stage_steps("scripted", scripted)
    Pipeline(steps, tmp_path / "there", executor=_BackwardEngine()).run(topic_rows(18))
    assert data_of(tmp_path / "here") == data_of(tmp_path / "there")


@settings(max_examples=12)
@given(count=st.integers(0, 20), batch_rows=st.integers(1, 25))
def test_rows_do_not_depend_on_the_batches(tmp_path_factory, count, batch_rows) -> None:
    folder = tmp_path_factory.mktemp("batches")
    steps = stage_steps("scripted", scripted, batch_rows=batch_rows)
    rows = list(Pipeline(steps, folder / "a").run(topic_rows(count)).rows())
    one = Pipeline(stage_steps("scripted", scripted, batch_rows=99), folder / "b").run(topic_rows(count))
    assert rows == list(one.rows())


def test_two_runs_cannot_share_a_folder(tmp_path) -> None:
    def intrude(_: StepProgress) -> None:
        Pipeline(stage_steps("scripted", scripted), tmp_path).run(topic_rows(4))

    with pytest.raises(SynthesisError, match="another run"):
        Pipeline(stage_steps("scripted", scripted), tmp_path, progress=intrude).run(topic_rows(4))


def test_what_generators_fail_at_is_kept_with_its_reason(tmp_path) -> None:
    table = {"one": "fine", "two": "  "}
    outcomes = {
        "three": GenerationFailure("filtered", "by the endpoint"),
        "four": Completion("cut", "length", 1, 1),
    }

    def script(request: GenerationRequest) -> object:
        text = request.messages[0].content
        return outcomes.get(text) or table.get(text) or GenerationFailure("no_script")

    step = GenerateStep(
        "answers",
        GeneratorSource("scripted", lambda: ScriptedGenerator(script)),
        request=lambda row, seed: (
            None if row.messages[0].content == "five" else GenerationRequest(row.messages, 9, seed=seed)
        ),
        parse=lambda row, completion: derive_row(row, "answers", meta={"said": completion.text}),
        attempts=3,
        allow_cut=False,
    )
    source = [Exchange((Message("user", text),)) for text in ("one", "two", "three", "four", "five", "six")]
    result = Pipeline([step], tmp_path).run(source)
    assert [row.messages[0].content for row in result.rows()] == ["one", "five"]
    assert result.steps[0].rejected == {
        "empty": 1,
        "cut": 1,
        "generator_filtered": 1,
        "generator_no_script": 1,
    }
    assert result.steps[0].counters["requests"] == 1 + 3 * 4


def test_a_second_attempt_has_another_seed(tmp_path) -> None:
    generator = ScriptedGenerator(lambda request: write_answer(request)[:-1] + str(request.seed % 2 * 5))
    step = stage_steps("scripted", lambda: generator, batch_rows=40)[0]
    result = Pipeline([step], tmp_path).run(topic_rows(40))
    once = generator.usage.requests - 40
    # About half are asked again, and about half of those come through then.
    assert 5 < once < 35
    assert 0 < result.steps[0].rejected["off_topic"] < once


def test_a_budget_that_ends_in_a_batch_keeps_what_was_answered(tmp_path) -> None:
    asked: list[str] = []

    def script(request: GenerationRequest) -> str:
        if len(asked) == 9:
            raise BudgetExhausted("used up")
        asked.append(request.key("scripted"))
        return write_answer(request)

    with RequestCache(tmp_path / "answers.sqlite") as cache:
        steps = stage_steps("scripted", lambda: CachedGenerator(ScriptedGenerator(script), cache))
        with pytest.raises(BudgetExhausted):
            Pipeline(steps, tmp_path / "run").run(topic_rows(18))
        assert len(cache) == 9
        generator = scripted()
        steps = stage_steps("scripted", lambda: CachedGenerator(generator, cache))
        result = Pipeline(steps, tmp_path / "run").run(topic_rows(18))
    whole = sum(step.counters["requests"] for step in result.steps)
    assert generator.usage.requests == whole - 9


def test_a_dry_run_counts_what_would_be_asked(tmp_path) -> None:
    dry = DryRunGenerator(write_answer)
    result = Pipeline(stage_steps("dry-run", lambda: dry), tmp_path).run(topic_rows(12))
    estimate = dry.estimate.to_dict(Prices(prompt=1, completion=2))
    assert estimate["requests"] == sum(step.counters["requests"] for step in result.steps)
    assert set(estimate["requests_by_purpose"]) == {"query", "answer"}
    assert estimate["cost"] == (estimate["prompt_tokens"] + 2 * estimate["completion_tokens"]) / 1e6
    known = estimate_requests([GenerationRequest((Message("user", "abc"),), 7)])
    assert known.to_dict() == {
        "requests": 1,
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "requests_by_purpose": {"": 1},
        "cost": None,
    }


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "empty"),
        ([FilterStep("a", lambda row: None), FilterStep("a", lambda row: None)], "taken"),
        ([FilterStep("source", lambda row: None)], "taken"),
        ([FilterStep("../a", lambda row: None)], "letters"),
        ([FilterStep("a", lambda row: None, config={"x": {1}})], "JSON"),
    ],
)
def test_pipelines_that_cannot_be_meant_are_refused(tmp_path, steps, words) -> None:
    with pytest.raises(ConfigError, match=words):
        Pipeline(steps, tmp_path)


def test_rows_with_one_id_or_none_are_an_error_of_the_step(tmp_path) -> None:
    with pytest.raises(SynthesisError, match="same id"):
        Pipeline([MapStep("a", lambda row, seed: [row, row])], tmp_path).run(topic_rows(2))
    bare = Exchange((Message("user", "x"),))
    with pytest.raises(SynthesisError, match="derive_row"):
        Pipeline([MapStep("b", lambda row, seed: bare)], tmp_path).run(topic_rows(2))
