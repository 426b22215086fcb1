"""`lockgate build`: make a guard from a constitution in one command."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import (
    EXIT_CHECK_FAILED,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    print_error,
    print_json,
)
from lockgate.cli._factory import (
    BudgetTokensOption,
    BudgetUsdOption,
    ConcurrencyOption,
    ExecutorOption,
    FieldsOption,
    Files,
    GeneratorOption,
    GeneratorSettings,
    JudgeModelOption,
    JudgeOption,
    JudgeRowsOption,
    KeyEnvOption,
    ModelOption,
    PlanOption,
    PolicyArgument,
    PresetOption,
    PriceCompletionOption,
    PricePromptOption,
    PromptsOption,
    RayAddressOption,
    StreamsOption,
    describe_requests,
    generator_sources,
    open_executor,
    preset_for,
    read_fields,
    read_plan,
    read_prices,
    show_steps,
)

if TYPE_CHECKING:
    from lockgate.assembly import BuildEstimate, BuildResult, TrainingPlan
    from lockgate.backbones import Backbone
    from lockgate.feedback import FeedbackRule
    from lockgate.synthesis import Prices

# Each process holds the weights. More processes than this gain little.
_MOST_WORKERS = 8


def register(app: typer.Typer) -> None:
    app.command()(build)


def build(
    constitution: PolicyArgument,
    out: Annotated[Path, typer.Option(help="Folder for the guard. It appears when the build is complete.")],
    benign: Annotated[
        Files | None,
        typer.Option(
            help="Your own traffic, unlabelled or harmless. It sets the threshold. May be repeated."
        ),
    ] = None,
    data: Annotated[
        Files | None, typer.Option(help="Labelled exchanges to add to the training data. May be repeated.")
    ] = None,
    feedback: Annotated[
        Path | None,
        typer.Option(
            help="Reviews of a guard's verdicts (JSON lines). Policy entries that they propose are written "
            "beside the report."
        ),
    ] = None,
    mine: Annotated[
        Files | None,
        typer.Option(
            help="Pool of exchanges, unlabelled or harmless. The ones that the probe finds most harmful "
            "train a second stage, in OUT.build/classifier. May be repeated."
        ),
    ] = None,
    mine_top: Annotated[
        float | None,
        typer.Option(help="Share of the pool of --mine that trains. Default: 0.05.", min=0, max=1),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(
            help="Guard to replace. It is compared with the new one and kept if the new one is worse."
        ),
    ] = None,
    train_on_top: Annotated[
        bool,
        typer.Option(
            "--train-on-top",
            help="Also train on the exchanges of OUT.build/review.jsonl that --feedback calls harmful. "
            "Training and scoring then run again. Default: they are left out of the sample.",
        ),
    ] = False,
    hold_out_reviews: Annotated[
        float | None,
        typer.Option(
            help="Share of the reviews of --feedback that only compare the new guard with the old one. "
            "Default: 0.25, and 0 below 40 reviews.",
            min=0,
            max=0.9,
        ),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Replace the guard of --update even if the new one is worse.")
    ] = False,
    plan: PlanOption = None,
    preset: PresetOption = None,
    generator: GeneratorOption = "embedded",
    model: ModelOption = None,
    key_env: KeyEnvOption = None,
    endpoint_field: FieldsOption = None,
    concurrency: ConcurrencyOption = 16,
    budget_tokens: BudgetTokensOption = None,
    budget_usd: BudgetUsdOption = None,
    price_prompt: PricePromptOption = None,
    price_completion: PriceCompletionOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_rows: JudgeRowsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    streams: StreamsOption = 32,
    prompts: PromptsOption = None,
    evaluation: Annotated[
        Files | None,
        typer.Option(
            help="Exchanges for the report only. Training and calibration never see them. May be repeated."
        ),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(help="Model that the guard reads: embedded, or the folder of a causal language model."),
    ] = "embedded",
    workers: Annotated[
        int | None,
        typer.Option(
            help=f"Processes that read and score. Default: one for each core, at most {_MOST_WORKERS}.",
            min=1,
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            help="Wanted refusal budget. If the sample is too small for it, the guard claims a larger one."
        ),
    ] = 0.0005,
    benign_share: Annotated[
        float,
        typer.Option(
            help="Share of your traffic's prompts that train the probe instead of setting its threshold.",
            min=0,
            max=0.9,
        ),
    ] = 0.2,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of the probe's training. Default: the preset's.", min=1)
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Folds of the cross-validation that chooses the settings of the fit and tries a text voice. "
            "Default: 0, neither.",
            min=0,
        ),
    ] = None,
    delay: Annotated[
        int | None,
        typer.Option(
            help="Answer tokens that a suspicious stream keeps back, if the guard gets a text voice. Less "
            "leaves before a halt, and suspicious answers arrive later. Default: that of the guard of "
            "--update, or 0.",
            min=0,
        ),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(help="Largest number of training exchanges. Default: the preset's.", min=1),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Training reads only the last tokens of an exchange, at most this many. "
            "Default: the preset's.",
            min=32,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for data, scores and reports. Default: OUT.build, or UPDATE.build."),
    ] = None,
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the expected requests, tokens and budget, and do nothing else."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make a guard from a policy: synthesize exchanges, train on them, set the threshold, and report.

    After an interruption, run the same command again: it continues and makes the same guard.

    Without --benign the guard is uncalibrated: its threshold is provisional, and it claims no false-refusal
    rate.
    """
    from lockgate.assembly import BuildInputs, build_guard, estimate_build
    from lockgate.constitution import load_constitution
    from lockgate.guards import check_target

    wanted, policy = read_plan(plan, preset, generator), load_constitution(constitution)
    settings = {"epochs": epochs, "folds": folds, "max_rows": max_rows, "max_tokens": max_tokens}
    settings |= {"delay": delay}
    shares: dict[str, Any] = {"mine_top": mine_top, "budget": budget, "benign_share": benign_share}
    shares |= {"feedback": _feedback(hold_out_reviews)}
    training = _training(preset, generator, {**settings, **shares})
    prices = read_prices(price_prompt, price_completion)
    check_target(out)
    if dry_run:
        estimate = estimate_build(
            policy,
            wanted,
            training,
            benign=benign or (),
            data=data or (),
            prompts=prompts or (),
            mine=mine or (),
            judge=judge is not None,
            judge_rows=judge_rows,
        )
        _print_estimate(estimate, prices, json)
        return
    client = GeneratorSettings(
        *(key_env, concurrency, device, dtype, streams, budget_tokens),
        prices=prices,
        max_cost=budget_usd,
        fields=read_fields(endpoint_field),
    )
    source, checker = generator_sources((generator, model), (judge, judge_model), client)
    loaded = _load(backbone, device, dtype)
    with open_executor(executor, ray_address, settings=client) as used, show_steps() as watch:
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
            mine=tuple(mine or ()),
            feedback=feedback,
            update=update,
            train_on_top=train_on_top,
            accept=accept,
            executor=used,
            judge=checker,
            judge_rows=judge_rows,
            workers=workers or _processes(loaded),
            watch=lambda state: watch(state.step, state.total, state.done),
        )
        result = build_guard(inputs, out, work=work, command=("lockgate", *sys.argv[1:]))
    _print_result(result, json)


def _training(preset: str | None, generator: str, changes: dict[str, Any]) -> "TrainingPlan":
    from lockgate.assembly import TrainingPlan

    name: Any = preset_for(preset, generator)
    return TrainingPlan.preset(name, **{key: value for key, value in changes.items() if value is not None})


def _feedback(hold_out: float | None) -> "FeedbackRule | None":
    from lockgate.feedback import FeedbackRule

    return None if hold_out is None else FeedbackRule(hold_out=hold_out, least_held_out=0)


def _load(source: str, device: str, dtype: str) -> "Backbone":
    from lockgate.backbones import Backbone

    return Backbone.load(source, device=device, dtype=dtype)


def _processes(backbone: "Backbone") -> int:
    """Return one process for each core, or a single one on a GPU, which all would share."""
    if backbone.placement.kind != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def _print_result(result: "BuildResult", json: bool) -> None:
    from lockgate.assembly import summarise_build

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
            f"the old guard was kept because the new one is worse: {' '.join(result.refused)} The new guard "
            f"is in {result.candidate}; --accept takes it anyway"
        )
        raise typer.Exit(EXIT_CHECK_FAILED)


def _of(result: "BuildResult") -> dict[str, Any]:
    return {"refused": list(result.refused), "report": dict(result.report)}


def _print_estimate(estimate: "BuildEstimate", prices: "Prices | None", json: bool) -> None:
    content = estimate.to_dict(prices)
    if json:
        print_json(content)
        return
    for line in describe_requests(content["synthesis"]):
        typer.echo(f"synthesize, {line}")
    for name in ("training", "calibration", "mining"):
        part = content[name]
        if name == "mining" and not part["exchanges"]:
            continue
        typer.echo(f"{name}: about {part['exchanges']} exchanges, {part['tokens']} tokens to read")
    found = content["budget"]
    wish = f"{found['wished']:.2%} takes {found['wished_needs']} distinct prompts"
    typer.echo(
        f"refusal budget: none, the guard will be uncalibrated ({wish})"
        if found["possible"] is None
        else f"refusal budget: {found['possible']:.2%} at {found['prompts']} distinct prompts ({wish})"
    )
