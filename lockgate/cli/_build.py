"""`lockgate build`: from a constitution to a guard in one command."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import EXIT_CHECK_FAILED, Advance, JsonFlag, print_error, print_json, progress

if TYPE_CHECKING:
    from lockgate.backbones import Backbone
    from lockgate.build import BuildProgress, BuildResult, TrainingPlan

_Files = list[Path]
# More processes than this would each hold the weights for little gain.
_MOST_WORKERS = 8


def register(app: typer.Typer) -> None:
    app.command()(build)


def build(
    constitution: Annotated[
        str, typer.Argument(metavar="CONSTITUTION", help="A file, or the name of one that is shipped.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the guard; it appears when all is done.")],
    benign: Annotated[
        _Files | None,
        typer.Option(help="Your own traffic, unlabelled or harmless: it sets the threshold; several times."),
    ] = None,
    data: Annotated[
        _Files | None, typer.Option(help="Labelled exchanges that train besides; several times.")
    ] = None,
    feedback: Annotated[Path | None, typer.Option(help="Reviews of a guard's verdicts, JSON lines.")] = None,
    update: Annotated[
        Path | None, typer.Option(help="The guard to replace: compared with first, kept if that is worse.")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Replace it even where that is worse.")] = False,
    plan: Annotated[
        Path | None, typer.Option(help="What to synthesize, as YAML; see lockgate synthesize --show-plan.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="small (embedded model, two cores) or large (an endpoint).")
    ] = None,
    generator: Annotated[
        str, typer.Option(help="embedded, a local model's folder, or an endpoint's address ending in /v1.")
    ] = "embedded",
    model: Annotated[str | None, typer.Option(help="Model's name at the endpoint.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests in flight at the endpoint.", min=1)] = 16,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Tokens that this run may use at the endpoint.", min=1)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of a model that writes in process.")] = "float32",
    streams: Annotated[int, typer.Option(help="Answers that a model in process writes at once.", min=1)] = 32,
    prompts: Annotated[
        _Files | None, typer.Option(help="Prompts of your own, with a category each; several times.")
    ] = None,
    evaluation: Annotated[
        _Files | None,
        typer.Option(
            help="Exchanges to keep out of training and calibration, and to report on; several times."
        ),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="What the guard reads with: embedded, or a local causal language model.")
    ] = "embedded",
    workers: Annotated[
        int | None, typer.Option(help="Processes that read and score. [default: one for each core]", min=1)
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Refusal budget wished for; a smaller sample claims a larger one.")
    ] = 0.0005,
    benign_share: Annotated[
        float, typer.Option(help="Of your traffic's prompts, those that train instead.", min=0, max=0.9)
    ] = 0.2,
    epochs: Annotated[int | None, typer.Option(help="Of the probe's training.", min=1)] = None,
    max_rows: Annotated[int | None, typer.Option(help="Training exchanges at most.", min=1)] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longer exchanges keep their last tokens in training.", min=32)
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for data, scores and reports. [default: OUT.build, or UPDATE.build]"),
    ] = None,
    engine: Annotated[str, typer.Option(help="Where the factory's batches run: local or ray.")] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked for and read, and do nothing.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Synthesize exchanges for a policy, train a guard on them, set its threshold, and report on it.

    Interrupted, stopped or killed, the same command goes on where it was, to the same guard. Without --benign
    the guard is uncalibrated: its threshold is provisional and no false-refusal rate is claimed.
    """
    from lockgate.build import BuildInputs, build_guard
    from lockgate.cli._synthesize import _engine, _read_plan, _source
    from lockgate.constitution import load_constitution
    from lockgate.guards import check_target

    wanted, policy = _read_plan(plan, preset, generator), load_constitution(constitution)
    settings = {"epochs": epochs, "max_rows": max_rows, "max_tokens": max_tokens}
    training = _training(preset, generator, {**settings, "budget": budget, "benign_share": benign_share})
    check_target(out)
    if dry_run:
        _print_estimate(policy, wanted, training, (benign, data, prompts), json)
        return
    source = _source(
        generator,
        model,
        {
            "key_env": key_env, "concurrency": concurrency, "dtype": dtype, "streams": streams,
            "prices": None, "max_tokens": budget_tokens, "max_cost": None,
        },
        "--generator",
    )  # fmt: skip
    loaded = _load(backbone)
    with _engine(engine) as used, _steps() as watch:
        inputs = BuildInputs(
            constitution=policy,
            generator=source,
            backbone=loaded,
            factory=wanted,
            training=training,
            benign=tuple(benign or ()),
            data=tuple(data or ()),
            prompts=tuple(prompts or ()),
            evaluation=tuple(evaluation or ()),
            feedback=feedback,
            update=update,
            accept=accept,
            engine=used,
            workers=workers or _cores(),
            watch=watch,
        )
        result = build_guard(inputs, out, work=work, command=("lockgate", *sys.argv[1:]))
    _print_result(result, json)


def _training(preset: str | None, generator: str, changes: dict[str, Any]) -> "TrainingPlan":
    from lockgate.build import TrainingPlan
    from lockgate.cli._synthesize import _is_address

    name = preset or ("large" if _is_address(generator) else "small")
    return TrainingPlan.preset(name, **{key: value for key, value in changes.items() if value is not None})


def _load(source: str) -> "Backbone":
    from lockgate.backbones import Backbone

    return Backbone.load(source)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


@contextmanager
def _steps() -> Iterator[Callable[["BuildProgress"], None]]:
    """A bar, or plain lines, for one step after another."""
    with ExitStack() as stack:
        open_step, done = "", 0
        advance: Advance = _nothing

        def watch(state: "BuildProgress") -> None:
            nonlocal open_step, done, advance
            if state.step != open_step:
                stack.close()
                open_step, done = state.step, 0
                advance = stack.enter_context(progress(state.step, state.total))
            advance(max(0, state.done - done))
            done = max(done, state.done)

        yield watch


def _nothing(count: int) -> None:
    return


def _print_result(result: "BuildResult", json: bool) -> None:
    from lockgate.build import summarise_build

    if json:
        pages = {kind: str(path) for kind, path in result.pages.items()}
        guard = None if result.guard is None else str(result.guard)
        print_json({"guard": guard, "candidate": str(result.candidate), "pages": pages, **_of(result)})
    else:
        for warning in result.report["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
        for line in summarise_build(result.report):
            typer.echo(line)
        typer.echo(f"report: {result.pages['html']}; data card: {result.folder / 'data' / 'README.md'}")
    if result.refused:
        print_error(
            f"the guard before was kept, since the new one is worse: {' '.join(result.refused)} The new "
            "one lies "
            f"in {result.candidate}; --accept takes it all the same"
        )
        raise typer.Exit(EXIT_CHECK_FAILED)


def _of(result: "BuildResult") -> dict[str, Any]:
    return {"refused": list(result.refused), "report": dict(result.report)}


def _print_estimate(
    policy: Any,  # noqa: ANN401 - a Constitution
    plan: Any,  # noqa: ANN401 - a FactoryPlan
    training: "TrainingPlan",
    files: tuple[_Files | None, _Files | None, _Files | None],
    json: bool,
) -> None:
    from lockgate.build import estimate_build

    benign, data, prompts = (tuple(paths or ()) for paths in files)
    content = estimate_build(policy, plan, training, benign=benign, data=data, prompts=prompts).to_dict()
    if json:
        print_json(content)
        return
    asked = content["synthesis"]
    typer.echo(
        f"synthesize: up to {asked['requests']} requests, {asked['prompt_tokens']} prompt and "
        f"{asked['completion_tokens']} completion tokens"
    )
    for name in ("training", "calibration"):
        part = content[name]
        typer.echo(f"{name}: about {part['exchanges']} exchanges, {part['tokens']} tokens to read")
    found = content["budget"]
    wish = f"{found['wished']:.2%} takes {found['wished_needs']} distinct prompts"
    typer.echo(
        f"refusal budget: none, the guard will be uncalibrated ({wish})"
        if found["possible"] is None
        else f"refusal budget: {found['possible']:.2%} at {found['prompts']} distinct prompts ({wish})"
    )
