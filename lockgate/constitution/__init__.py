"""Constitutions: written policies. Data, probes and reports take their categories from them."""

from lockgate.constitution._lint import Finding, lint_constitution, lint_text
from lockgate.constitution._load import (
    constitution_path,
    dump_constitution,
    hash_constitution,
    load_constitution,
    load_mapping,
    read_mapping,
    shipped_names,
)
from lockgate.constitution._mapping import (
    SHAPES,
    Columns,
    DataMapping,
    LabelRule,
    Shape,
    mapping_names,
    mapping_path,
)
from lockgate.constitution._schema import BUCKETS, Constitution, HarmfulCategory, Harmless, HarmlessCategory

__all__ = [
    "BUCKETS",
    "SHAPES",
    "Columns",
    "Constitution",
    "DataMapping",
    "Finding",
    "HarmfulCategory",
    "Harmless",
    "HarmlessCategory",
    "LabelRule",
    "Shape",
    "constitution_path",
    "dump_constitution",
    "hash_constitution",
    "lint_constitution",
    "lint_text",
    "load_constitution",
    "load_mapping",
    "mapping_names",
    "mapping_path",
    "read_mapping",
    "shipped_names",
]
