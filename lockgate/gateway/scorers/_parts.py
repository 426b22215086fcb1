"""The two parts of a gateway whose scorers are apart, each made from the guard in its own process."""

from dataclasses import replace
from functools import partial
from typing import Protocol

from lockgate.errors import ConfigError
from lockgate.gateway._gateway import Gateway
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._guarding import describe_guard, scoring_of
from lockgate.gateway._options import EngineOptions, default_kv_tokens
from lockgate.gateway.scorers._core import ScorerCore
from lockgate.gateway.scorers._leases import About
from lockgate.gateway.scorers._sessions import Scorers
from lockgate.gateway.scorers._stepper import ScorerStepper
from lockgate.guards import Guard


class AskedScorers(Scorers, Protocol):
    """Scorers that tell which guard they have."""

    def about(self) -> About:
        """Wait for a scorer, and return what it says of its guard."""
        ...


def scorer_of(guard: Guard, limits: EngineOptions, *, name: str | None = None) -> tuple[ScorerCore, About]:
    """Make a scorer.

    Args:
        limits: its streams and key-value tokens.
        name: name of the guard that clients see.
    """
    scoring = scoring_of(guard)
    tokens = limits.kv_tokens or default_kv_tokens(guard.backbone.context_length, limits.max_streams)
    core = ScorerCore(guard.backbone, scoring, kv_tokens=tokens, streams=limits.max_streams)
    return core, About(scoring.guard, describe_guard(guard, name), tokens)


def gateway_of(guard: Guard, scorers: AskedScorers, options: GatewayOptions, *, most: int) -> Gateway:
    """Make a gateway without a model. The backbone loses its weights, unless a second stage needs them.

    Args:
        options: streams and key-value tokens are those of one scorer.
        most: scorers that there may be. The gateway can make full use of so many.

    Raises:
        ConfigError: the scorers have another guard.
    """
    scoring, about = scoring_of(guard), scorers.about()
    if about.guard != scoring.guard:
        raise ConfigError("the scorers have another guard than this gateway; start both from one config file")
    limits, tokens = options.engine, about.kv_tokens
    if guard.classifier is None:
        guard.backbone.drop_weights()
    make = partial(
        ScorerStepper,
        guard.backbone,
        scoring,
        scorers,
        width=most * limits.max_streams,
        kv_tokens=most * tokens,
        of_one=tokens,
        step_timeout=limits.step_timeout,
        patience=limits.queue_timeout,
    )
    wider = replace(limits, max_streams=most * limits.max_streams, kv_tokens=most * tokens)
    gateway = Gateway(guard.backbone, scoring, replace(options, engine=wider), about.described, make)
    gateway.guard_folder = guard.path
    return gateway
