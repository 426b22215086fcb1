"""`lockgate synthesize`: make labelled exchanges from a constitution."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag, print_json
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
    read_fields,
    read_plan,
    read_prices,
    show_steps,
)

if TYPE_CHECKING:
    from lockgate.synthesis import Prices
    from lockgate.synthesis.factory import SynthesisEstimate, SynthesisResult


def register(app: typer.Typer) -> None:
    app.command()(synthesize)


def synthesize(
    constitution: PolicyArgument,
    out: Annotated[Path, typer.Option(help="Folder for the data set. An unfinished run there continues.")],
    plan: PlanOption = None,
    preset: PresetOption = None,
    generator: GeneratorOption = "embedded",
    model: ModelOption = None,
    key_env: KeyEnvOption = None,
    endpoint_field: FieldsOption = None,
    concurrency: ConcurrencyOption = 16,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    streams: StreamsOption = 32,
    prompts: PromptsOption = None,
    evaluation: Annotated[
        Files | None,
        typer.Option(
            help="Evaluation exchanges. The data will not hold them or near-duplicates. May be repeated."
        ),
    ] = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_rows: JudgeRowsOption = None,
    executor: ExecutorOption = "local",
    ray_address: RayAddressOption = None,
    budget_tokens: BudgetTokensOption = None,
    budget_usd: BudgetUsdOption = None,
    price_prompt: PricePromptOption = None,
    price_completion: PriceCompletionOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the expected requests and tokens, and request nothing.")
    ] = False,
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the plan as YAML, and do nothing else.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make a data set for a policy: harmful and harmless exchanges, with twins and disguises, in splits.

    After an interruption, run the same command again to continue. An answered request is never sent again.
    """
    from lockgate.constitution import load_constitution
    from lockgate.synthesis import factory

    wanted = read_plan(plan, preset, generator)
    policy = load_constitution(constitution)
    if show_plan:
        typer.echo(wanted.to_yaml(), nl=False)
        return
    prices = read_prices(price_prompt, price_completion)
    if dry_run:
        estimate = factory.estimate_synthesis(
            policy, wanted, seeds=prompts or (), judge=judge is not None, judge_rows=judge_rows
        )
        _print_estimate(estimate, prices, json)
        return
    settings = GeneratorSettings(
        *(key_env, concurrency, device, dtype, streams, budget_tokens),
        prices=prices,
        max_cost=budget_usd,
        fields=read_fields(endpoint_field),
    )
    with open_executor(executor, ray_address, settings=settings) as used, show_steps() as watch:
        writer, checker = generator_sources((generator, model), (judge, judge_model), settings)
        result = factory.synthesize(
            policy,
            writer,
            wanted,
            out,
            executor=used,
            seeds=prompts or (),
            evaluation=evaluation or (),
            judge=checker,
            judge_rows=judge_rows,
            progress=lambda state: watch(state.step, state.rows_total, state.rows_done),
        )
    _print_result(result, json)


def _print_estimate(estimate: "SynthesisEstimate", prices: "Prices | None", json: bool) -> None:
    content = estimate.to_dict(prices)
    if json:
        print_json(content)
        return
    for line in describe_requests(content):
        typer.echo(line)
    for purpose, most in content["at_most"]["requests_by_purpose"].items():
        typer.echo(f"  {purpose}: {content['requests_by_purpose'].get(purpose, 0)}, at most {most}")


def _print_result(result: "SynthesisResult", json: bool) -> None:
    rows = result.card["rows"]
    if json:
        content = {"folder": str(result.folder), "rows": rows, "warnings": list(result.warnings)}
        print_json({**content, "exchanges_sha256": result.card["exchanges_sha256"]})
        return
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    labels = rows["by_label"]
    typer.echo(
        f"{rows['total']} exchanges in {result.exchanges}: {labels.get('harmful', 0)} harmful, "
        f"{labels.get('harmless', 0)} harmless, {rows['pairs']} pairs; card in {result.folder / 'README.md'}"
    )
