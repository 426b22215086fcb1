"""Mapping files: how a data set is laid out, what its labels mean and where its categories belong."""

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lockgate.constitution._document import Document, DocumentError, read_document
from lockgate.constitution._schema import Text
from lockgate.errors import ConstitutionError

_FOLDER = Path(str(resources.files("lockgate.constitution"))) / "mappings"

Shape = Literal["auto", "exchange", "prompt", "prompt_response", "messages", "sharegpt", "preference"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

Label = Annotated[float, Field(ge=0, le=1)] | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Strict):
    """Names of columns; a dot leads into a nested one, as in `annotations.harm`.

    Attributes:
        prompt: one column, or several that are joined by a blank line where they are not empty.
        response, system: text beside the prompt.
        messages: the list of turns, also ShareGPT's `conversations`.
        chosen, rejected: the two sides of a preference.
        category: the data set's own category; a list or an object of booleans may name several.
        source: where a row comes from, if it is not the same for all.
        meta: columns to keep in `meta`, under their names.
    """

    prompt: Text | Annotated[list[Text], Field(min_length=1)] | None = None
    response: Text | None = None
    system: Text | None = None
    messages: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    category: Text | None = None
    source: Text | None = None
    meta: list[Text] = Field(default_factory=list)


class LabelRule(_Strict):
    """Where labels come from: one of `constant`, `splits`, `sides` or `column`. 1 is harmful, null unknown.

    Attributes:
        constant: the label of every row.
        splits: the label of each split.
        sides: the labels of a preference's two sides.
        column: a column with numbers in [0, 1] or booleans, or
        equals: with values that stand for labels (`true`, `false` and numbers as YAML writes them), or
        threshold: with numbers, harmful from there on; `harmful: below` turns that round.
        otherwise: the label of values that `equals` doesn't list; without it such a row is rejected. An
            empty cell is no value: its row is unlabelled then, unless `equals` lists `null`.
    """

    constant: Label = None
    splits: dict[str, Label] | None = None
    sides: dict[Literal["chosen", "rejected"], Label] | None = None
    column: Text | None = None
    equals: dict[str, Label] | None = None
    threshold: float | None = None
    harmful: Literal["above", "below"] = "above"
    otherwise: Label = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set
        if len(given & {"constant", "splits", "sides", "column"}) != 1:
            raise ValueError("give one of constant, splits, sides or column")
        if given & {"equals", "threshold", "harmful", "otherwise"} and self.column is None:
            raise ValueError("equals, threshold, harmful and otherwise need a column")
        if {"equals", "threshold"} <= given:
            raise ValueError("give equals or threshold, not both")
        if "otherwise" in given and self.equals is None:
            raise ValueError("otherwise needs equals")
        if "harmful" in given and self.threshold is None:
            raise ValueError("harmful needs threshold")
        return self

    @property
    def lists_all(self) -> bool:
        """Whether a value that `equals` doesn't list rejects the row."""
        return "otherwise" not in self.model_fields_set


class DataMapping(_Strict):
    """What a mapping file says; every field may be left out, but `categories` need a `constitution`.

    Attributes:
        constitution: shipped name or path (from the mapping's folder) that the categories belong to.
        source: name that each row's `source` gets; else that of the file or folder.
        shape: the layout; `auto` finds it by the columns.
        rows: for one JSON document, the path to its list of rows, as in `data.items`.
        files: glob within a folder; config: which of several configurations its README lists.
        splits: the splits to take; all without it.
        columns, label: see `Columns` and `LabelRule`. Without a rule rows are unlabelled, except exchanges.
        roles: further names of roles, such as `bot: assistant`.
        ignore_keys: keys of messages that hold no part of the conversation.
        categories: the data set's names to harmful or harmless ids of the constitution.
        default_category: id for rows whose category is missing or not mapped.
        unmapped: what becomes of rows whose category is not mapped: `keep` without one, or `skip`.
    """

    constitution: Text | None = None
    source: Text | None = None
    shape: Shape = "auto"
    rows: Text | None = None
    files: Text | None = None
    config: Text | None = None
    splits: list[Text] | None = None
    columns: Columns = Field(default_factory=Columns)
    label: LabelRule | None = None
    roles: dict[str, Literal["system", "developer", "user", "assistant", "tool"]] = Field(
        default_factory=dict
    )
    ignore_keys: list[Text] = Field(default_factory=list)
    categories: dict[str, Text] = Field(default_factory=dict)
    default_category: Text | None = None
    unmapped: Literal["keep", "skip"] = "keep"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.categories or self.default_category) and self.constitution is None:
            raise ValueError("categories need `constitution`: the shipped name or file they lead to")
        if self.unmapped == "skip" and not self.categories:
            raise ValueError("`unmapped: skip` needs categories")
        return self


def mapping_names() -> list[str]:
    """Names of the data sets whose category names are mapped, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def mapping_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a shipped mapping or of a path.

    Raises:
        ConstitutionError: neither a shipped mapping nor a file.
    """
    name = os.fspath(name_or_path)
    if name in mapping_names():
        return _FOLDER / f"{name}.yaml"
    if not Path(name).is_file():
        raise ConstitutionError(
            f"{name}: no mapping for this data set, and no file; there are {', '.join(mapping_names())}"
        )
    return Path(name)


def read_document_mapping(path: Path) -> tuple[DataMapping, Document]:
    """A mapping file by its schema alone, and its lines.

    Raises:
        ConstitutionError: `FILE:LINE: FIELD: ...` of the first error.
    """
    try:
        document = read_document(path)
    except DocumentError as error:
        raise ConstitutionError(f"{path}:{error.line}: {error.message}; correct the mapping file") from None
    except OSError as error:
        raise ConstitutionError(f"{path}: can't be read: {error.strerror}") from None
    for place in document.duplicates:
        raise ConstitutionError(
            f"{path}:{document.line(place)}: {place[-1]}: stands twice; keep one of the two"
        )
    try:
        return DataMapping.model_validate(document.value), document
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"]) or "file"
        known = _known(first["loc"]) if first["type"] == "extra_forbidden" else ""
        line = document.line(first["loc"])
        raise ConstitutionError(f"{path}:{line}: {field}: {_lower(first['msg'])}{known}") from None


def _known(place: tuple[Any, ...]) -> str:
    models: dict[Any, type[BaseModel]] = {"columns": Columns, "label": LabelRule}
    model = models.get(place[0], DataMapping) if len(place) > 1 else DataMapping
    return f"; known here: {', '.join(model.model_fields)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
