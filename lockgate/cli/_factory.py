"""Options and helpers that `lockgate synthesize` and `lockgate build` share."""

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
    str, typer.Argument(metavar="CONSTITUTION", help="A constitution's file, or the name of a shipped one.")
]
PlanOption = Annotated[
    Path | None,
    typer.Option(help="YAML file with the plan of the data. `lockgate synthesize --show-plan` prints one."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Plan that comes with Lockgate: small (embedded model, two cores) or large (endpoint). "
        "Default: the one that fits the generator."
    ),
]
GeneratorOption = Annotated[
    str,
    typer.Option(
        help="Model that writes: embedded, a local model's folder, or an endpoint's URL (ends in /v1)."
    ),
]
ModelOption = Annotated[str | None, typer.Option(help="Name of the generator's model at the endpoint.")]
KeyEnvOption = Annotated[str | None, typer.Option(help="Environment variable that holds the endpoint's key.")]
FieldsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint-field",
        metavar="FIELD=NAME",
        help="The endpoint's name for max_tokens, temperature or seed, such as "
        "max_tokens=max_completion_tokens. `seed=` leaves the field out. May be repeated.",
    ),
]
ConcurrencyOption = Annotated[
    int, typer.Option(help="Requests that are open at the endpoint at a time.", min=1)
]
BudgetTokensOption = Annotated[
    int | None, typer.Option(help="Largest number of tokens that this run may use at endpoints.", min=1)
]
BudgetUsdOption = Annotated[
    float | None, typer.Option(help="Largest cost of this run. Needs both prices.", min=0)
]
PricePromptOption = Annotated[float | None, typer.Option(help="Price of one million prompt tokens.", min=0)]
PriceCompletionOption = Annotated[
    float | None, typer.Option(help="Price of one million completion tokens.", min=0)
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="Model that checks labels: embedded, a local model's folder, or an endpoint's URL."),
]
JudgeModelOption = Annotated[str | None, typer.Option(help="Name of the judge's model at its endpoint.")]
JudgeRowsOption = Annotated[
    Path | None, typer.Option(help="Exchanges labelled by hand. They measure the judge before it is used.")
]
StreamsOption = Annotated[int, typer.Option(help="Answers that a local model writes at a time.", min=1)]
PromptsOption = Annotated[
    Files | None, typer.Option(help="Your own prompts, each with a category. May be repeated.")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", "--engine", help="Where batches run: local (this process) or ray.")
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster. Default: Ray on this machine.")
]


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Settings that apply to any generator."""

    key_env: str | None
    concurrency: int
    device: str
    dtype: str
    streams: int
    max_tokens: int | None = None
    prices: "Prices | None" = None
    max_cost: float | None = None
    fields: "Mapping[str, str | None]" = field(default_factory=dict)


def read_fields(given: list[str] | None) -> dict[str, str | None]:
    """Read --endpoint-field into names by field. Raises ConfigError if an item is not FIELD=NAME."""
    from lockgate.errors import ConfigError

    found: dict[str, str | None] = {}
    for item in given or ():
        name, equals, other = item.partition("=")
        if not equals or name in found:
            raise ConfigError(f"--endpoint-field {item}: expected FIELD=NAME, each field once")
        found[name] = other or None
    return found


def read_plan(path: Path | None, preset: str | None, generator: str) -> "FactoryPlan":
    """Return the plan of --plan or --preset. The default is the preset that fits the generator."""
    from lockgate.errors import ConfigError
    from lockgate.synthesis.factory import FactoryPlan

    if path is not None and preset is not None:
        raise ConfigError("--plan and --preset: give only one; a plan's file can name a preset")
    if path is not None:
        return FactoryPlan.from_yaml(path)
    name: Any = preset_for(preset, generator)
    return FactoryPlan.preset(name)


def preset_for(preset: str | None, generator: str) -> str:
    """Return the given preset, or the one that fits the generator."""
    return preset or ("large" if _is_address(generator) else "small")


def read_prices(prompt: float | None, completion: float | None) -> "Prices | None":
    """Return the prices of both options, or None. Raises ConfigError if only one is given."""
    from lockgate.errors import ConfigError
    from lockgate.synthesis import Prices

    if prompt is None and completion is None:
        return None
    if prompt is None or completion is None:
        raise ConfigError("--price-prompt and --price-completion: give both")
    return Prices(prompt=prompt, completion=completion)


def describe_requests(content: Mapping[str, Any]) -> list[str]:
    """Return two lines: the expected requests, and the most that there can be."""
    most = content["at_most"]
    return [
        f"expected: {_requests(content)}, if no answer is refused, dropped or requested again",
        f"at most: {_requests(most)}; lost replies are requested again and are not counted here",
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
    """Return the generator and the judge that the options name. They share one budget.

    Args:
        generator, judge: each a source (`embedded`, a folder or an address) and its model's name.

    Raises:
        ConfigError: the settings are wrong, or there is a budget but no endpoint.
    """
    from lockgate.errors import ConfigError

    capped = settings.max_tokens is not None or settings.max_cost is not None
    if capped and not any(name is not None and _is_address(name) for name in (generator[0], judge[0])):
        raise ConfigError("--generator: a budget is for endpoints; a local model has no cost but time")
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
    """Return a local model or an endpoint."""
    from pydantic import ValidationError

    from lockgate.errors import ConfigError
    from lockgate.synthesis import EndpointConfig
    from lockgate.synthesis.factory import embedded_source, endpoint_source

    if not _is_address(name):
        return embedded_source(name, device=settings.device, dtype=settings.dtype, streams=settings.streams)
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
    """Yield the executor of that name, and close it after the run.

    Raises:
        ConfigError: `settings` have a budget, and the executor is not local. Only one process can keep it.
    """
    from lockgate.errors import ConfigError
    from lockgate.synthesis import executor_named

    if name == "ray" and settings is not None and (settings.max_tokens, settings.max_cost) != (None, None):
        raise ConfigError(
            "--executor ray: each worker would spend the whole budget in each step; leave the budget out and "
            "set a limit on the endpoint's key, or use the local executor"
        )
    with ExitStack() as stack:
        executor = executor_named(name, address=address)
        yield stack.enter_context(executor) if isinstance(executor, AbstractContextManager) else executor


@contextmanager
def show_steps() -> Iterator[Callable[[str, int | None, int], None]]:
    """Show progress of one step after another. Yield a function that takes step, total and number done."""
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
