"""All augmentations by name and family, chains of them, and what holding out a family means."""

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
# Those that ask a generator are families too, so that a split can hold them out.
GENERATED_FAMILIES = ("paraphrase", "translation")


def augmentation_families() -> dict[str, list[str]]:
    """Names of the augmentations of each family, families in alphabetical order."""
    families: dict[str, list[str]] = {}
    for name in sorted(AUGMENTATIONS):
        families.setdefault(AUGMENTATIONS[name].family, []).append(name)
    return dict(sorted(families.items()))


def select_augmentations(
    *, families: Collection[str] | None = None, hold_out: Collection[str] = ()
) -> list[Augmentation]:
    """Augmentations of the families wanted (default: all) without those held out, by name.

    Raises:
        ConfigError: a family that does not exist.
    """
    known = augmentation_families()
    if unknown := (set(families or ()) | set(hold_out)) - set(known) - set(GENERATED_FAMILIES):
        raise ConfigError(
            f"families: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(known)}"
        )
    wanted = (set(known) if families is None else set(families)) - set(hold_out)
    return [AUGMENTATIONS[name] for name in sorted(AUGMENTATIONS) if AUGMENTATIONS[name].family in wanted]


def exchange_families(exchange: Exchange) -> list[str]:
    """Families of an exchange's augmentations, each once: the keys by which its attack family is held out."""
    return sorted({str(record["family"]) for record in exchange.meta.get("augmentations", ())})


def draw_chain(
    choices: Sequence[Augmentation], seed: int, *, max_depth: int = MAX_DEPTH
) -> list[Augmentation]:
    """One to `max_depth` augmentations of different families, in an order that makes sense.

    Words are replaced first, then text is encoded or cut (once), then framed; code books hide nothing that
    is encoded already.
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
    """Apply augmentations one after the other; those already written in the exchange count toward the depth.

    Raises:
        SynthesisError: a chain over the depth, an exchange that does not fit, or a result that is too long.
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
    """The exchange before all its augmentations.

    Raises:
        SynthesisError: one of them can't be undone (those of a generator).
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
