"""Ray makes the same data as this process. One local Ray with two workers serves all tests."""

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray_parts import CountedScript, DeadlyStep, FaultyStep, error_of, make_script, save_guard
from stage_pipeline import stage_steps, topic_rows

from lockgate.errors import ConfigError, MissingExtra, SynthesisError
from lockgate.exchanges import Exchange, Message
from lockgate.synthesis import (
    Batch,
    Executor,
    FilterStep,
    LocalExecutor,
    Pipeline,
    RayExecutor,
    executor_named,
)
from lockgate.synthesis.scoring import ScoreStep

# CI has Ray and must not leave these out.
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and os.environ.get("LOCKGATE_REQUIRE_RAY") != "1",
    reason='Ray is not installed: pip install "lockgate[ray]"',
)
# Ray Data warns of settings of its own when its context is made.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        # By default workers step back for everything else, which on a busy machine takes minutes.
        patch.setenv("RAY_worker_niceness", "0")
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent)]))
        with RayExecutor(workers=2) as started:
            # A Ray that does not start fails once, not in each test.
            list(started.map_batches(FilterStep("plain", keep_all), [Batch(0, [])]))
            yield started


def numbered(count: int) -> list[Exchange]:
    return [replace(row, meta={"number": number}) for number, row in enumerate(topic_rows(count))]


def answered(count: int) -> list[Exchange]:
    said = (Message("assistant", "it goes up the sleeve"),)
    return [replace(row, messages=row.messages + said) for row in numbered(count)]


def data_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@needs_ray
@quiet
def test_a_pipeline_gives_the_same_files_and_makes_its_generator_once_a_worker_and_step(
    executor, tmp_path
) -> None:
    Pipeline(stage_steps("script", make_script, batch_rows=2), tmp_path / "local").run(topic_rows(14))
    made = tmp_path / "made"
    made.mkdir()
    steps = stage_steps("script", CountedScript(made), batch_rows=2)
    Pipeline(steps, tmp_path / "ray", executor=executor).run(topic_rows(14))
    assert data_of(tmp_path / "ray") == data_of(tmp_path / "local")
    # Two steps ask; two workers at most make it for each.
    assert 2 <= len(list(made.iterdir())) <= 4


@needs_ray
@quiet
def test_batches_are_read_no_further_than_a_window_ahead_and_come_back_in_order(executor) -> None:
    import lockgate.synthesis._ray as module

    read = 0

    def batches() -> Iterator[Batch]:
        nonlocal read
        for number in range(3 * 2 * module._WINDOW):
            read += 1
            yield Batch(number, [])

    step = FilterStep("plain", keep_all)
    numbers = []
    for output in executor.map_batches(step, batches()):
        numbers.append(output.number)
        assert read - len(numbers) < 2 * module._WINDOW
    assert numbers == list(range(3 * 2 * module._WINDOW))


@pytest.mark.slow
@needs_ray
@quiet
def test_a_worker_killed_in_mid_run_changes_nothing(executor, tmp_path) -> None:
    lives = tmp_path / "lives"
    lives.mkdir()
    Pipeline([DeadlyStep("deadly", 7, lives)], tmp_path / "local").run(numbered(15))
    (lives / "first").touch()
    Pipeline([DeadlyStep("deadly", 7, lives)], tmp_path / "ray", executor=executor).run(numbered(15))
    assert not list(lives.iterdir())
    assert data_of(tmp_path / "ray") == data_of(tmp_path / "local")


@needs_ray
@quiet
@pytest.mark.parametrize("kind", ["generator", "extra", "file", "unicode"])
def test_what_a_step_raises_is_raised_and_batches_before_it_are_kept(executor, tmp_path, kind) -> None:
    expected = error_of(kind)
    with pytest.raises(type(expected)) as caught:
        Pipeline([FaultyStep("faulty", 7, kind)], tmp_path, executor=executor).run(numbered(15))
    if kind != "unicode":
        assert str(caught.value) == str(expected)
    assert "error_of" in caught.value.__notes__[0]
    assert sorted(path.name for path in (tmp_path / "faulty").glob("*.done")) == [
        "000000.jsonl.done",
        "000001.jsonl.done",
    ]


@needs_ray
@quiet
def test_a_guard_scores_the_same_in_workers_that_load_it(executor, tmp_path, saved_backbone) -> None:
    backbone = saved_backbone("llama")
    save_guard(tmp_path / "guard", backbone)

    def run(name: str, executor: Executor) -> dict[str, bytes]:
        step = ScoreStep("score", tmp_path / "guard", backbone=backbone, batch_rows=2)
        found = Pipeline([step], tmp_path / name, executor=executor).run(answered(6))
        assert found.steps[0].rows_out == 6
        return data_of(tmp_path / name)

    assert run("ray", executor) == run("local", LocalExecutor())


@pytest.mark.slow
@needs_ray
@quiet
def test_a_batch_that_brings_its_worker_down_each_time_is_given_up(executor, tmp_path) -> None:
    lives = tmp_path / "lives"
    lives.mkdir()
    for number in range(100):
        (lives / str(number)).touch()
    with pytest.raises(SynthesisError, match="step deadly: Ray gave up on a batch") as caught:
        Pipeline([DeadlyStep("deadly", 7, lives)], tmp_path / "ray", executor=executor).run(numbered(9))
    assert "run again" in str(caught.value)
    assert len(list(lives.iterdir())) == 96


@needs_ray
@quiet
def test_a_step_that_belongs_to_this_process_is_refused(executor, tmp_path) -> None:
    lock = threading.Lock()
    step = FilterStep("locked", lambda row: "held" if lock.locked() else None)
    with pytest.raises(ConfigError, match="step locked: it can't be sent to another process"):
        Pipeline([step], tmp_path, executor=executor).run(topic_rows(2))


@needs_ray
def test_a_finished_run_starts_no_ray(tmp_path) -> None:
    Pipeline([FilterStep("plain", keep_all)], tmp_path).run(topic_rows(4))
    executor = RayExecutor("nowhere.invalid:6379")
    Pipeline([FilterStep("plain", keep_all)], tmp_path, executor=executor).run(topic_rows(4))


def keep_all(row: Exchange) -> None:
    """Drops nothing."""


def test_engines_have_names() -> None:
    local: Executor = executor_named("local")
    assert isinstance(local, LocalExecutor)
    for wrong in ({"name": "spark"}, {"name": "local", "address": "auto"}, {"name": "local", "workers": 2}):
        with pytest.raises(ConfigError):
            executor_named(**wrong)


def test_without_ray_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "lockgate\[ray\]"'):
        executor_named("ray")
