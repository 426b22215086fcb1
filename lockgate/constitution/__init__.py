"""Constitutions: the written policy from which data, probes and reports take their categories."""

from lockgate.constitution._lint import Finding, lint_constitution
from lockgate.constitution._load import (
    constitution_path,
    dump_constitution,
    load_constitution,
    load_mapping,
    mapping_names,
    shipped_names,
)
from lockgate.constitution._schema import (
    BUCKETS,
    Constitution,
    HarmfulCategory,
    Harmless,
    HarmlessCategory,
)

__all__ = [
    "BUCKETS",
    "Constitution",
    "Finding",
    "HarmfulCategory",
    "Harmless",
    "HarmlessCategory",
    "constitution_path",
    "dump_constitution",
    "lint_constitution",
    "load_constitution",
    "load_mapping",
    "mapping_names",
    "shipped_names",
]
