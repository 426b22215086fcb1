"""More attack families for the ablation: training exchanges in further disguises, harmful and harmless alike."""

import hashlib
from collections.abc import Sequence

from lockgate.exchanges import Exchange
from lockgate.synthesis.augmentations import Augmentation, augmentation_families, select_augmentations

TEMPLATES = "gptfuzz"
# Longer exchanges take minutes to read and are cut to the window anyway.
LONGEST = 4000


def disguised(train: Sequence[Exchange], pairs: int) -> list[Exchange]:
    """Return a harmful and a harmless exchange of `train` for each disguise drawn. The families take turns.

    Exchanges in a jailbreak template are not used. The result is shorter if `train` has too few others.
    """
    plain = [(row, row.label >= 0.5) for row in train if row.source != TEMPLATES and row.label is not None]
    sides = [[row for row, harmful in plain if harmful is side] for side in (True, False)]
    families = [select_augmentations(families=[name]) for name in augmentation_families()]
    found: list[Exchange] = []
    for number, (harmful, harmless) in enumerate(zip(*sides, strict=False)):
        if len(found) >= 2 * pairs:
            break
        choices = families[number % len(families)]
        seed = int.from_bytes(hashlib.sha256(f"families/{number}".encode()).digest()[:4])
        augmentation = choices[seed % len(choices)]
        twins = [dress(row, augmentation, seed) for row in (harmful, harmless)]
        if all(twin is not None for twin in twins):
            found += [twin for twin in twins if twin is not None]
    return found


def dress(row: Exchange, augmentation: Augmentation, seed: int) -> Exchange | None:
    """Disguise an exchange. Returns nothing if the disguise does not fit or makes it too long."""
    if not augmentation.fits(row):
        return None
    made = augmentation.apply(row, seed)
    return made if sum(len(message.content) for message in made.messages) <= LONGEST else None
