"""All augmentations by name and family, chains of them, and the selection without held-out families."""

from collections.abc import Collection, Sequence
from random import Random

from lockgate.errors import ConfigError, SynthesisError
from lockgate.exchanges import Exchange
from lockgate.synthesis.augmentations._base import Augmentation
from lockgate.synthesis.augmentations._codebooks import OBFUSCATIONS
from lockgate.synthesis.augmentations._context import CONTEXTS
from lockgate.synthesis.augmentations._encodings import ENCODINGS, FORMAT_CHANGES
from lockgate.synthesis.augmentations._fragments import RECONSTRUCTIONS
from lockgate.synthesis.augmentations._framing import FRAMES

MAX_DEPTH = 3
MAX_CHARACTERS = 40_000

AUGMENTATIONS: dict[str, Augmentation] = {
    augmentation.name: augmentation
    for augmentation in (*OBFUSCATIONS, *ENCODINGS, *FORMAT_CHANGES, *RECONSTRUCTIONS, *CONTEXTS, *FRAMES)
}
# Augmentations that need a generator are families too, so that a split can hold them out.
GENERATED_FAMILIES = ("paraphrase", "translation")


def augmentation_families() -> dict[str, list[str]]:
    """Return the names of each family's augmentations, with families in alphabetical order."""
    families: dict[str, list[str]] = {}
    for name in sorted(AUGMENTATIONS):
        families.setdefault(AUGMENTATIONS[name].family, []).append(name)
    return dict(sorted(families.items()))


def select_augmentations(
    *, families: Collection[str] | None = None, hold_out: Collection[str] = ()
) -> list[Augmentation]:
    """Return the augmentations of some families (default: all), without held-out families, ordered by name.

    Raises:
        ConfigError: A family does not exist.
    """
    known = augmentation_families()
    if unknown := (set(families or ()) | set(hold_out)) - set(known) - set(GENERATED_FAMILIES):
        raise ConfigError(
            f"families: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(known)}"
        )
    wanted = (set(known) if families is None else set(families)) - set(hold_out)
    return [AUGMENTATIONS[name] for name in sorted(AUGMENTATIONS) if AUGMENTATIONS[name].family in wanted]


def exchange_families(exchange: Exchange) -> list[str]:
    """Return the attack families of an exchange's augmentations, each once."""
    return sorted({str(record["family"]) for record in exchange.meta.get("augmentations", ())})


def draw_chain(
    choices: Sequence[Augmentation], seed: int, *, max_depth: int = MAX_DEPTH
) -> list[Augmentation]:
    """Draw one to `max_depth` augmentations of different families, in an order that works.

    Words are replaced first, then the text is encoded or cut (once), then framed. A code book hides nothing
    in encoded text.
    """
    _check_depth(max_depth)
    rng = Random(f"{seed}/chain")  # noqa: S311
    chain: list[Augmentation] = []
    depth = rng.randint(1, max_depth)
    for augmentation in rng.sample(list(choices), len(choices)):
        taken = {other.family for other in chain}
        if augmentation.family in taken or (
            augmentation.stage < 2 and augmentation.stage in {o.stage for o in chain}
        ):
            continue
        chain.append(augmentation)
        if len(chain) == depth:
            break
    return sorted(chain, key=lambda augmentation: augmentation.stage)


def apply_chain(
    exchange: Exchange,
    chain: Sequence[Augmentation],
    seed: int,
    *,
    max_depth: int = MAX_DEPTH,
    max_characters: int = MAX_CHARACTERS,
) -> Exchange:
    """Apply augmentations one after the other. Earlier ones of the exchange count toward the depth.

    Raises:
        SynthesisError: The chain is too deep, the exchange does not fit, or the result is too long.
    """
    _check_depth(max_depth)
    depth = len(exchange.meta.get("augmentations", ())) + len(chain)
    if depth > max_depth:
        raise SynthesisError(f"augmentations: a chain of {depth} is over the limit of {max_depth}")
    for number, augmentation in enumerate(chain):
        exchange = augmentation.apply(exchange, seed + number)
        length = sum(len(message.content) for message in exchange.messages)
        if length > max_characters:
            raise SynthesisError(
                f"augmentation {augmentation.name}: {length} characters, over the limit of {max_characters}"
            )
    return exchange


def undo_all(exchange: Exchange) -> Exchange:
    """Return the exchange before all its augmentations.

    Raises:
        SynthesisError: One of them can't be undone, because a generator made it.
    """
    while records := exchange.meta.get("augmentations"):
        name = records[-1]["name"]
        if name not in AUGMENTATIONS:
            raise SynthesisError(f"augmentation {name}: has no inverse")
        exchange = AUGMENTATIONS[name].undo(exchange)
    return exchange


def _check_depth(max_depth: int) -> None:
    if max_depth < 1:
        raise ConfigError(f"max_depth: expected at least 1, found {max_depth}")
