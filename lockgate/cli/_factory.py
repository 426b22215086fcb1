"""What commands that synthesize share: options, the plan, the generator, the executor, progress."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import Advance, progress

if TYPE_CHECKING:
    from lockgate.synthesis import Budget, Executor, GeneratorSource, Prices
    from lockgate.synthesis.factory import FactoryPlan

Files = list[Path]

PolicyArgument = Annotated[
    str, typer.Argument(metavar="CONSTITUTION", help="A file, or the name of one that is shipped.")
]
PlanOption = Annotated[
    Path | None, typer.Option(help="What to make, as YAML; see lockgate synthesize --show-plan.")
]
PresetOption = Annotated[
    str | None, typer.Option(help="small (embedded model, two cores) or large (an endpoint).")
]
GeneratorOption = Annotated[
    str, typer.Option(help="embedded, a local model's folder, or an endpoint's address ending in /v1.")
]
ModelOption = Annotated[str | None, typer.Option(help="Model's name at the endpoint.")]
KeyEnvOption = Annotated[str | None, typer.Option(help="Environment variable that holds the endpoint's key.")]
FieldsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint-field",
        metavar="FIELD=NAME",
        help="Another name of max_tokens, temperature or seed at the endpoint, as in "
        "max_tokens=max_completion_tokens; `seed=` leaves it out; several times.",
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(help="Requests in flight at the endpoint.", min=1)]
BudgetTokensOption = Annotated[
    int | None, typer.Option(help="Tokens that this run may use at the endpoint.", min=1)
]
BudgetUsdOption = Annotated[
    float | None, typer.Option(help="What this run may cost; needs both prices.", min=0)
]
PricePromptOption = Annotated[float | None, typer.Option(help="Price of a million prompt tokens.", min=0)]
PriceCompletionOption = Annotated[
    float | None, typer.Option(help="Price of a million completion tokens.", min=0)
]
JudgeOption = Annotated[
    str | None, typer.Option(help="Who checks labels: embedded, a folder or an endpoint's address.")
]
JudgeModelOption = Annotated[str | None, typer.Option(help="The judge's name at its endpoint.")]
JudgeRowsOption = Annotated[
    Path | None, typer.Option(help="Hand-labelled exchanges that the judge must agree with.")
]
DtypeOption = Annotated[str, typer.Option(help="Of a model that writes in process: float32 or bfloat16.")]
StreamsOption = Annotated[int, typer.Option(help="Answers that a model in process writes at once.", min=1)]
PromptsOption = Annotated[
    Files | None, typer.Option(help="Prompts of your own, with a category each; several times.")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", "--engine", help="Where batches run: local or ray.")
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="A Ray cluster's address. [default: Ray on this machine]")
]


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """What the options say about any generator."""

    key_env: str | None
    concurrency: int
    dtype: str
    streams: int
    max_tokens: int | None = None
    prices: "Prices | None" = None
    max_cost: float | None = None
    fields: "Mapping[str, str | None]" = field(default_factory=dict)


def read_fields(given: list[str] | None) -> dict[str, str | None]:
    """Names that --endpoint-field gives, by field. Raises ConfigError for what is no FIELD=NAME."""
    from lockgate.errors import ConfigError

    found: dict[str, str | None] = {}
    for item in given or ():
        name, equals, other = item.partition("=")
        if not equals or name in found:
            raise ConfigError(f"--endpoint-field {item}: expected FIELD=NAME, each field once")
        found[name] = other or None
    return found


def read_plan(path: Path | None, preset: str | None, generator: str) -> "FactoryPlan":
    """The plan of --plan or --preset; by default the preset that fits the generator."""
    from lockgate.errors import ConfigError
    from lockgate.synthesis.factory import FactoryPlan

    if path is not None and preset is not None:
        raise ConfigError("--plan and --preset: give one of them; a plan's file may name a preset itself")
    if path is not None:
        return FactoryPlan.from_yaml(path)
    name: Any = preset_for(preset, generator)
    return FactoryPlan.preset(name)


def preset_for(preset: str | None, generator: str) -> str:
    """The preset asked for, or the one that fits the generator."""
    return preset or ("large" if _is_address(generator) else "small")


def read_prices(prompt: float | None, completion: float | None) -> "Prices | None":
    """The prices of --price-prompt and --price-completion. Raises ConfigError for one without the other."""
    from lockgate.errors import ConfigError
    from lockgate.synthesis import Prices

    if prompt is None and completion is None:
        return None
    if prompt is None or completion is None:
        raise ConfigError("--price-prompt and --price-completion: give both")
    return Prices(prompt=prompt, completion=completion)


def describe_requests(content: Mapping[str, Any]) -> list[str]:
    """Two lines: what is expected to be asked for, and what it is at most."""
    most = content["at_most"]
    return [
        f"expected: {_requests(content)}, if no answer is refused, dropped or asked for twice",
        f"at most: {_requests(most)}; replies that are lost on the way are asked for again on top",
    ]


def _requests(content: Mapping[str, Any]) -> str:
    cost = "" if content["cost"] is None else f", cost {content['cost']:.2f}"
    return (
        f"{content['requests']} requests, {content['prompt_tokens']} prompt and "
        f"{content['completion_tokens']} completion tokens{cost}"
    )


def generator_sources(
    generator: tuple[str, str | None], judge: tuple[str | None, str | None], settings: GeneratorSettings
) -> tuple["GeneratorSource", "GeneratorSource | None"]:
    """The generator and the judge that options name, each with its model's name; both spend one budget.

    Raises:
        ConfigError: settings that no endpoint takes, or a budget where nothing asks an endpoint.
    """
    from lockgate.errors import ConfigError

    capped = settings.max_tokens is not None or settings.max_cost is not None
    if capped and not any(name is not None and _is_address(name) for name in (generator[0], judge[0])):
        raise ConfigError("--generator: a budget is for endpoints; a model in process costs time alone")
    budget = _budget(settings)
    writer = _source(*generator, settings, "--generator", budget)
    if judge[0] is None:
        return writer, None
    return writer, _source(judge[0], judge[1], settings, "--judge", budget)


def _budget(settings: GeneratorSettings) -> "Budget":
    from lockgate.errors import ConfigError
    from lockgate.synthesis import Budget

    try:
        return Budget(max_tokens=settings.max_tokens, max_cost=settings.max_cost, prices=settings.prices)
    except ValueError as error:
        raise ConfigError(f"budget: {error}") from None


def _source(
    name: str, model: str | None, settings: GeneratorSettings, option: str, budget: "Budget"
) -> "GeneratorSource":
    """A model in process, or an endpoint."""
    from pydantic import ValidationError

    from lockgate.errors import ConfigError
    from lockgate.synthesis import EndpointConfig
    from lockgate.synthesis.factory import embedded_source, endpoint_source

    if not _is_address(name):
        return embedded_source(name, dtype=settings.dtype, streams=settings.streams)
    if model is None:
        raise ConfigError(f"{option}: an endpoint needs the name of its model ({_model_option(option)})")
    try:
        config = EndpointConfig(
            base_url=name,
            model=model,
            api_key_env=settings.key_env,
            concurrency=settings.concurrency,
            prices=settings.prices,
            max_tokens=settings.max_tokens,
            max_cost=settings.max_cost,
            fields=dict(settings.fields),  # type: ignore[arg-type] # checked there
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "budget"
        raise ConfigError(f"{option}: {field}: {problem['msg']}") from None
    return endpoint_source(config, budget=budget)


def _model_option(option: str) -> str:
    return "--model" if option == "--generator" else "--judge-model"


@contextmanager
def open_executor(
    name: str, address: str | None = None, *, settings: GeneratorSettings | None = None
) -> Iterator["Executor"]:
    """The executor of that name, closed behind the run.

    Raises:
        ConfigError: `settings` cap what a run may use, which only an executor of one process can keep to.
    """
    from lockgate.errors import ConfigError
    from lockgate.synthesis import executor_named

    if name == "ray" and settings is not None and (settings.max_tokens, settings.max_cost) != (None, None):
        raise ConfigError(
            "--executor ray: each worker would spend the whole budget, and again in each step; leave the "
            "budget out and cap the endpoint's key, or take the local executor"
        )
    with ExitStack() as stack:
        executor = executor_named(name, address=address)
        yield stack.enter_context(executor) if isinstance(executor, AbstractContextManager) else executor


@contextmanager
def show_steps() -> Iterator[Callable[[str, int | None, int], None]]:
    """A bar, or plain lines, for one step after another; it is told step, total and how much is done."""
    with ExitStack() as stack:
        open_step, seen = "", 0
        advance: Advance = _nothing

        def watch(step: str, total: int | None, done: int) -> None:
            nonlocal open_step, seen, advance
            if step != open_step:
                stack.close()
                open_step, seen = step, 0
                advance = stack.enter_context(progress(step, total))
            advance(max(0, done - seen))
            seen = max(done, seen)

        yield watch


def _nothing(count: int) -> None:
    return


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))
