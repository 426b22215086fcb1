"""What `lockgate redteam run` does: opens the variants, plays the attacks, writes the results."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lockgate._version import __version__
from lockgate.durable import lock_folder, open_atomic
from lockgate.errors import RedTeamError
from lockgate.redteam._attempts import Attack
from lockgate.redteam._campaign import Campaign, Variant
from lockgate.redteam._grades import Grader, RubricGrader
from lockgate.redteam._judging import JudgeCase, judge_errors, load_cases
from lockgate.redteam._metrics import capability_tax, summarise
from lockgate.redteam._private import open_private, open_replies
from lockgate.redteam._queries import QuerySet, load_queries
from lockgate.redteam._run import Row, Runner
from lockgate.redteam._targets import Guarded, Obedient, Target, Written
from lockgate.redteam.attacks import attacks_named
from lockgate.synthesis import (
    CachedGenerator,
    EmbeddedGenerator,
    EndpointGenerator,
    Generator,
    RequestCache,
)

ATTEMPTS = "attempts.jsonl"
RESULT = "result.json"
_CACHE = "replies.sqlite"


def run_campaign(
    campaign: Campaign,
    out: Path,
    *,
    grader: Grader | None = None,
    told: Callable[[str, Row], None] | None = None,
) -> dict[str, Any]:
    """Run a campaign, or go on with an interrupted one.

    Replies and verdicts are kept in `out` as they come, so a repeated run asks nothing twice. At the end
    `attempts.jsonl` holds every attempt with its texts, readable by its owner only, and `result.json` the
    figures, without any text.

    Args:
        out: the folder.
        grader: the attackers' judge; by default the rubric.
        told: called with the variant and each row as it is made.

    Raises:
        ConfigError, RedTeamError: queries, attacks or a variant are not there.
        GeneratorError: an endpoint can't be used. What was answered is kept.
    """
    queries = load_queries(campaign.queries)
    judge = grader or RubricGrader(campaign.detail)
    busy = RedTeamError(f"{out}: another run has this folder; wait for it, or give another")
    with lock_folder(out, busy), open_replies(out / _CACHE) as cache:
        attacker = None
        if campaign.attacker is not None:
            attacker = CachedGenerator(EndpointGenerator(campaign.attacker), cache)
        attacks = attacks_named(campaign.attacks, campaign.depth, campaign.attempts, attacker)
        rows: dict[str, list[Row]] = {}
        for name, variant in campaign.variants.items():
            target = opened(variant, cache, campaign.max_tokens)
            runner = Runner(name, target, judge, attempts=campaign.attempts, batch=campaign.batch)
            rows[name] = runner.run(
                attacks,
                queries.queries,
                seeds=campaign.seeds,
                twins=campaign.twins,
                told=None if told is None else _told(told, name),
            )
        result = result_of(campaign, queries, attacks, judge, rows)
        _write(out, result, rows)
    return result


def result_of(
    campaign: Campaign,
    queries: QuerySet,
    attacks: Sequence[Attack],
    grader: Grader,
    rows: Mapping[str, Sequence[Row]],
) -> dict[str, Any]:
    """Return the figures of a campaign as a JSON object, without texts."""
    content = json.dumps(queries.model_dump(), sort_keys=True, ensure_ascii=False)
    unguarded = {
        variant.speaker: rows[name]
        for name, variant in campaign.variants.items()
        if variant.guard is None and name in rows
    }
    taxes = {speaker: capability_tax(own) for speaker, own in unguarded.items()}
    return {
        "lockgate_version": __version__,
        "campaign": campaign.name,
        "queries": {
            "name": queries.name,
            "constitution": queries.constitution,
            "n": len(queries.queries),
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        },
        "judge": {"name": grader.name, "detail": campaign.detail},
        "judge_errors": _errors(grader),
        "attempts": campaign.attempts,
        "seeds": campaign.seeds,
        "families": {attack.name: attack.family for attack in attacks},
        "adaptive": [attack.name for attack in attacks if attack.adaptive],
        "held_out": list(campaign.held_out),
        "variants": {
            name: {
                "speaker": campaign.variants[name].speaker,
                "cost": cost_of(campaign.variants[name], own),
                **summarise(own, campaign.attempts, campaign.held_out),
                "capability_tax": taxes.get(campaign.variants[name].speaker, {}),
            }
            for name, own in rows.items()
        },
    }


def cost_of(variant: Variant, rows: Iterable[Row]) -> float | None:
    """Compute what a variant's attempts cost at its endpoint, if all were asked. None without prices."""
    prices = None if variant.endpoint is None else variant.endpoint.prices
    if prices is None:
        return None
    billed = [row.billed for row in rows]
    return prices.cost(sum(prompt for prompt, _ in billed), sum(written for _, written in billed))


def _errors(grader: Grader) -> dict[str, Any]:
    """Return how often the judge is wrong about the labelled texts, by what these were used for."""
    parts: dict[str, list[JudgeCase]] = {}
    for case in load_cases():
        parts.setdefault(case.part, []).append(case)
    return {part: judge_errors(grader, cases).to_dict() for part, cases in sorted(parts.items())}


def opened(variant: Variant, cache: RequestCache, max_tokens: int) -> Target:
    """Open what a variant names.

    Raises:
        GuardError, BackboneError, BackboneMismatch: the guard or its backbone can't be loaded.
        GeneratorError, MissingExtra: the endpoint can't be used.
    """
    target: Target = Obedient()
    if variant.endpoint is not None:
        config = variant.endpoint.model_copy(update={"filtered": "keep"})
        target = _written(EndpointGenerator(config), cache, max_tokens)
    elif variant.answers == "embedded":
        target = _written(EmbeddedGenerator.load(), cache, max_tokens)
    if variant.guard is None:
        return target
    # A campaign without a guard in this process loads no model.
    from lockgate.guards import Guard

    return Guarded(target, Guard.load(variant.guard, backbone=variant.backbone), cache, variant.view)


def _written(generator: Generator, cache: RequestCache, max_tokens: int) -> Written:
    return Written(CachedGenerator(generator, cache), max_tokens)


def _told(told: Callable[[str, Row], None], name: str) -> Callable[[Row], None]:
    return lambda row: told(name, row)


def _write(out: Path, result: dict[str, Any], rows: Mapping[str, Sequence[Row]]) -> None:
    with open_private(out / ATTEMPTS) as file:
        for own in rows.values():
            for row in own:
                file.write(json.dumps(row.to_dict(), ensure_ascii=False).encode() + b"\n")
    with open_atomic(out / RESULT) as file:
        file.write((json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
