"""`lockgate synthesize`: from a constitution to labelled exchanges."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import Advance, JsonFlag, print_json, progress

if TYPE_CHECKING:
    from lockgate.synthesis import Engine, Estimate, GeneratorSource, Prices, StepProgress
    from lockgate.synthesis.factory import FactoryPlan, SynthesisResult

_Files = list[Path]


def register(app: typer.Typer) -> None:
    app.command()(synthesize)


def synthesize(
    constitution: Annotated[
        str, typer.Argument(metavar="CONSTITUTION", help="A file, or the name of one that is shipped.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the data set; an earlier run there goes on.")],
    plan: Annotated[Path | None, typer.Option(help="What to make, as YAML; see --show-plan.")] = None,
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
    dtype: Annotated[str, typer.Option(help="Of a model in process: float32 or bfloat16.")] = "float32",
    streams: Annotated[int, typer.Option(help="Answers that a model in process writes at once.", min=1)] = 32,
    prompts: Annotated[
        _Files | None, typer.Option(help="Prompts of your own, with a category each; several times.")
    ] = None,
    evaluation: Annotated[
        _Files | None, typer.Option(help="Evaluation items to keep out of the data; several times.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Who checks labels: embedded, a folder or an endpoint's address.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at its endpoint.")] = None,
    judge_rows: Annotated[
        Path | None, typer.Option(help="Hand-labelled exchanges that the judge must agree with.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where batches run: local or ray.")] = "local",
    budget_tokens: Annotated[
        int | None, typer.Option(help="Tokens that this run may use at the endpoint.", min=1)
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(help="What this run may cost; needs both prices.", min=0)
    ] = None,
    price_prompt: Annotated[
        float | None, typer.Option(help="Price of a million prompt tokens.", min=0)
    ] = None,
    price_completion: Annotated[
        float | None, typer.Option(help="Price of a million completion tokens.", min=0)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked for, and ask nothing.")
    ] = False,
    show_plan: Annotated[bool, typer.Option("--show-plan", help="Print the plan as YAML and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write questions and answers for a policy, harmful and harmless, filtered, paired, disguised and split.

    Interrupted, stopped or killed, the same command goes on where it was; what was answered is never asked
    again.
    """
    from lockgate.constitution import load_constitution
    from lockgate.synthesis import factory

    wanted = _read_plan(plan, preset, generator)
    policy = load_constitution(constitution)
    if show_plan:
        typer.echo(wanted.to_yaml(), nl=False)
        return
    prices = _prices(price_prompt, price_completion)
    if dry_run:
        estimate = factory.estimate_synthesis(policy, wanted, seeds=prompts or (), judge=judge is not None)
        _print_estimate(estimate, prices, json)
        return
    settings = {
        "key_env": key_env, "concurrency": concurrency, "dtype": dtype, "streams": streams, "prices": prices,
        "max_tokens": budget_tokens, "max_cost": budget_usd,
    }  # fmt: skip
    with _engine(engine) as used, _steps() as watch:
        result = factory.synthesize(
            policy,
            _source(generator, model, settings, "--generator"),
            wanted,
            out,
            engine=used,
            seeds=prompts or (),
            evaluation=evaluation or (),
            judge=None if judge is None else _source(judge, judge_model, settings, "--judge"),
            judge_rows=judge_rows,
            progress=watch,
        )
    _print_result(result, json)


def _read_plan(path: Path | None, preset: str | None, generator: str) -> "FactoryPlan":
    from lockgate.errors import ConfigError
    from lockgate.synthesis.factory import FactoryPlan

    if path is not None and preset is not None:
        raise ConfigError("--plan and --preset: give one of them; a plan's file may name a preset itself")
    if path is not None:
        return FactoryPlan.from_yaml(path)
    name: Any = preset or ("large" if _is_address(generator) else "small")
    return FactoryPlan.preset(name)


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _prices(prompt: float | None, completion: float | None) -> "Prices | None":
    from lockgate.errors import ConfigError
    from lockgate.synthesis import Prices

    if prompt is None and completion is None:
        return None
    if prompt is None or completion is None:
        raise ConfigError("--price-prompt and --price-completion: give both")
    return Prices(prompt=prompt, completion=completion)


def _source(name: str, model: str | None, settings: dict[str, Any], option: str) -> "GeneratorSource":
    from pydantic import ValidationError

    from lockgate.errors import ConfigError
    from lockgate.synthesis import EndpointConfig
    from lockgate.synthesis.factory import embedded_source, endpoint_source

    if not _is_address(name):
        capped = settings["max_tokens"] is not None or settings["max_cost"] is not None
        if option == "--generator" and capped:
            raise ConfigError(f"{option}: a budget is for endpoints; a model in process costs time alone")
        return embedded_source(name, dtype=settings["dtype"], streams=settings["streams"])
    if model is None:
        raise ConfigError(f"{option}: an endpoint needs the name of its model ({_model_option(option)})")
    try:
        config = EndpointConfig(
            base_url=name,
            model=model,
            api_key_env=settings["key_env"],
            concurrency=settings["concurrency"],
            prices=settings["prices"],
            max_tokens=settings["max_tokens"],
            max_cost=settings["max_cost"],
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "budget"
        raise ConfigError(f"{option}: {field}: {problem['msg']}") from None
    return endpoint_source(config)


def _model_option(option: str) -> str:
    return "--model" if option == "--generator" else "--judge-model"


@contextmanager
def _engine(name: str) -> Iterator["Engine | None"]:
    from lockgate.errors import ConfigError

    if name == "local":
        yield None
    elif name == "ray":
        from lockgate.synthesis import RayEngine

        with RayEngine() as engine:
            yield engine
    else:
        raise ConfigError("--engine: expected local or ray")


@contextmanager
def _steps() -> Iterator[Callable[["StepProgress"], None]]:
    """A bar, or plain lines, for one step after another."""
    with ExitStack() as stack:
        open_step, done = "", 0
        advance: Advance = _nothing

        def watch(state: "StepProgress") -> None:
            nonlocal open_step, done, advance
            if state.step != open_step:
                stack.close()
                open_step, done = state.step, 0
                advance = stack.enter_context(progress(state.step, state.rows_total))
            advance(state.rows_done - done)
            done = state.rows_done

        yield watch


def _nothing(count: int) -> None:
    return


def _print_estimate(estimate: "Estimate", prices: "Prices | None", json: bool) -> None:
    content = estimate.to_dict(prices)
    if json:
        print_json(content)
        return
    cost = "" if content["cost"] is None else f", cost {content['cost']:.2f}"
    typer.echo(
        f"up to {content['requests']} requests, {content['prompt_tokens']} prompt and "
        f"{content['completion_tokens']} completion tokens{cost}"
    )
    for purpose, count in content["requests_by_purpose"].items():
        typer.echo(f"  {purpose}: {count}")


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
