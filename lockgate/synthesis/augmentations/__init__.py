"""Augmentations: disguises that keep an exchange's label. They can be chained, and most can be undone."""

from lockgate.synthesis.augmentations._base import Augmentation
from lockgate.synthesis.augmentations._codecs import CODECS, Codec
from lockgate.synthesis.augmentations._formats import FORMATS
from lockgate.synthesis.augmentations._generated import (
    REWORDED_TOKENS,
    GeneratedAugmentation,
    paraphrase_exchange,
    translate_exchange,
)
from lockgate.synthesis.augmentations._registry import (
    AUGMENTATIONS,
    GENERATED_FAMILIES,
    MAX_CHARACTERS,
    MAX_DEPTH,
    apply_chain,
    augmentation_families,
    draw_chain,
    exchange_families,
    select_augmentations,
    undo_all,
)

__all__ = [
    "AUGMENTATIONS",
    "CODECS",
    "FORMATS",
    "GENERATED_FAMILIES",
    "MAX_CHARACTERS",
    "MAX_DEPTH",
    "REWORDED_TOKENS",
    "Augmentation",
    "Codec",
    "GeneratedAugmentation",
    "apply_chain",
    "augmentation_families",
    "draw_chain",
    "exchange_families",
    "paraphrase_exchange",
    "select_augmentations",
    "translate_exchange",
    "undo_all",
]
