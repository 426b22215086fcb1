"""Loading constitutions by path or shipped name, and the mappings from data sets to their categories."""

import os
from importlib import resources
from pathlib import Path

import yaml

from lockgate.constitution._document import DocumentError, read_document
from lockgate.constitution._lint import check_file
from lockgate.constitution._schema import Constitution
from lockgate.errors import ConstitutionError

_FOLDER = Path(str(resources.files("lockgate.constitution")))


def shipped_names() -> list[str]:
    """Names of the constitutions that come with the package, sorted."""
    return sorted(path.stem for path in (_FOLDER / "shipped").glob("*.yaml"))


def mapping_names() -> list[str]:
    """Names of the data sets whose category names are mapped, sorted."""
    return sorted(path.stem for path in (_FOLDER / "mappings").glob("*.yaml"))


def constitution_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a shipped name or of a path. Write `./name` for a file that is called like a shipped one.

    Raises:
        ConstitutionError: neither a shipped name nor a file.
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
    """Load a constitution; warnings pass, see `lint_constitution` for them.

    Raises:
        ConstitutionError: `FILE:LINE: ...` of the first error and how many more there are.
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
    """YAML text that loads to an equal constitution, in the order of the schema."""
    return yaml.safe_dump(constitution.model_dump(), sort_keys=False, allow_unicode=True, width=110)


def load_mapping(name: str) -> dict[str, str]:
    """Category names of a public data set to ids of the shipped constitution that the file names.

    Categories without a counterpart are left out. Values are harmful or harmless ids.

    Raises:
        ConstitutionError: no such mapping, or it names an id that its constitution doesn't have.
    """
    if name not in mapping_names():
        raise ConstitutionError(
            f"{name}: no mapping for this data set; there are {', '.join(mapping_names())}"
        )
    path = _FOLDER / "mappings" / f"{name}.yaml"
    try:
        document = read_document(path)
    except DocumentError as error:
        raise ConstitutionError(f"{path}:{error.line}: {error.message}; {error.remedy}") from None
    known = {category.id for category in load_constitution(document.value["constitution"]).categories}
    mapping: dict[str, str] = document.value["categories"]
    for category, target in mapping.items():
        if target not in known:
            line = document.line(("categories", category))
            raise ConstitutionError(f"{path}:{line}: `{target}` is not a category of the constitution")
    return dict(mapping)
