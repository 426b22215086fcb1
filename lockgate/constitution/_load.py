"""Load constitutions and mapping files, by path or by shipped name."""

import hashlib
import os
from importlib import resources
from pathlib import Path

import yaml

from lockgate.constitution._document import Location
from lockgate.constitution._lint import check_file
from lockgate.constitution._mapping import DataMapping, mapping_path, read_document_mapping
from lockgate.constitution._schema import Constitution
from lockgate.errors import ConstitutionError

_FOLDER = Path(str(resources.files("lockgate.constitution")))


def shipped_names() -> list[str]:
    """Return the names of the constitutions in the package, sorted."""
    return sorted(path.stem for path in (_FOLDER / "shipped").glob("*.yaml"))


def constitution_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a shipped name or of a path. A shipped name wins: write `./name` to name a file.

    Raises:
        ConstitutionError: there is no shipped constitution and no file of this name.
    """
    name = os.fspath(name_or_path)
    if name in shipped_names():
        return _FOLDER / "shipped" / f"{name}.yaml"
    path = Path(name)
    if not path.is_file():
        raise ConstitutionError(
            f"{name}: neither a file nor a shipped constitution; shipped are {', '.join(shipped_names())}"
        )
    return path


def load_constitution(name_or_path: str | os.PathLike[str]) -> Constitution:
    """Load a constitution by shipped name or path. Warnings are ignored; `lint_constitution` lists them.

    Raises:
        ConstitutionError: the file has errors. The message is `FILE:LINE: ...` for the first one, and the
            number of the others.
    """
    path = constitution_path(name_or_path)
    checked = check_file(path)
    if checked.constitution is not None:
        return checked.constitution
    errors = [finding for finding in checked.findings if finding.level == "error"]
    first = errors[0]
    more = f"; {len(errors) - 1} more: `lockgate constitution check {path}`" if len(errors) > 1 else ""
    raise ConstitutionError(f"{path}:{first.line}: {first.message}; {first.remedy}{more}")


def dump_constitution(constitution: Constitution) -> str:
    """Return YAML text that loads to an equal constitution. Keys are in the order of the schema."""
    return yaml.safe_dump(constitution.model_dump(), sort_keys=False, allow_unicode=True, width=110)


def hash_constitution(constitution: Constitution) -> str:
    """Return the SHA-256 of `dump_constitution`. Comments and layout of the file don't change it."""
    return hashlib.sha256(dump_constitution(constitution).encode()).hexdigest()


def load_mapping(name: str) -> dict[str, str]:
    """Return the categories of a public data set and the constitution's id for each.

    The ids are harmful or harmless. Categories without a counterpart in the constitution are left out.

    Raises:
        ConstitutionError: there is no such mapping, or it names an id that its constitution doesn't have.
    """
    return dict(read_mapping(name).categories)


def read_mapping(
    name_or_path: str | os.PathLike[str], constitution: str | os.PathLike[str] | None = None
) -> DataMapping:
    """Read a mapping by shipped name or path and check its ids against the constitution.

    Args:
        name_or_path: shipped name or path of the mapping.
        constitution: shipped name or path of the constitution. It replaces the one that the file names.

    Returns:
        The mapping. Its `constitution` is the one that was used; `load_constitution` accepts it.

    Raises:
        ConstitutionError: the file doesn't follow the schema, or names an id that the constitution doesn't
            have. The message is `FILE:LINE: FIELD: ...`.
    """
    path = mapping_path(name_or_path)
    mapping, document = read_document_mapping(path)
    named = _beside(path, mapping.constitution) if constitution is None else os.fspath(constitution)
    if named is None:
        return mapping
    known = {category.id for category in load_constitution(named).categories}
    targets: list[tuple[Location, str]] = [
        (("categories", name), target) for name, target in mapping.categories.items()
    ]
    if mapping.default_category is not None:
        targets.append((("default_category",), mapping.default_category))
    for place, target in targets:
        if target not in known:
            raise ConstitutionError(
                f"{path}:{document.line(place)}: {'.'.join(map(str, place))}: `{target}` is not a category "
                f"of {named}; `lockgate constitution show {named}` lists them"
            )
    return mapping.model_copy(update={"constitution": named})


def _beside(path: Path, constitution: str | None) -> str | None:
    """Resolve a relative path from the mapping's folder."""
    if constitution is None or constitution in shipped_names():
        return constitution
    found = path.parent / constitution
    return str(found) if found.is_file() else constitution
