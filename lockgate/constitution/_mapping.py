"""Mapping files: the layout of a data set, the meaning of its labels, and ids for its categories."""

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
    """Names of columns. A dot names a nested column, as in `annotations.harm`.

    Attributes:
        prompt: one column, or several. Several are joined with a blank line; empty ones are skipped.
        response: the answer.
        system: the system message.
        messages: the list of turns. ShareGPT's `conversations` is one.
        chosen: the better answer of a preference.
        rejected: the worse answer of a preference.
        category: the data set's own category. A list, or an object of booleans, may name several.
        source: the origin of each row, if the rows have different ones.
        meta: columns that are kept in `meta` under their own names.
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
    """The source of labels: one of `constant`, `splits`, `sides` or `column`. 1 is harmful, null is unknown.

    Attributes:
        constant: the label of every row.
        splits: the label of each split.
        sides: the labels of a preference's two sides.
        column: a column of labels: numbers in [0, 1] or booleans. With `equals` or `threshold` it may hold
            other values.
        equals: the label of each value in `column`. Write `true`, `false` and numbers as YAML does.
        threshold: numbers in `column` from this one on are harmful.
        harmful: `below` makes numbers below the threshold harmful instead.
        otherwise: the label of values that `equals` doesn't list. Without it, such a row is rejected. An
            empty cell is not a value: its row has no label, unless `equals` lists `null`.
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
    """The content of a mapping file. Every field is optional, but `categories` need a `constitution`.

    Attributes:
        constitution: constitution that the categories belong to: a shipped name, or a path from the
            mapping's folder.
        source: the `source` of every row. The default is the name of the file or folder.
        shape: the layout. `auto` finds it from the columns.
        rows: for a file that is one JSON document, the path to its list of rows, as in `data.items`.
        files: glob for files in a folder.
        config: one of the configurations that the folder's README lists.
        splits: the splits to read. The default is all.
        columns: names of columns, see `Columns`.
        label: the source of labels, see `LabelRule`. Without it, rows have no label, except rows in the
            exchange form.
        roles: more names of roles, such as `bot: assistant`.
        ignore_keys: keys of messages that are not part of the conversation.
        categories: the data set's categories, each with a harmful or harmless id of the constitution.
        default_category: id for rows whose category is missing or not mapped.
        unmapped: what happens to rows whose category is not mapped. `keep` keeps them without a category,
            `skip` leaves them out.
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
            raise ValueError(
                "categories need `constitution`: the shipped name or file that their ids belong to"
            )
        if self.unmapped == "skip" and not self.categories:
            raise ValueError("`unmapped: skip` needs categories")
        return self


def mapping_names() -> list[str]:
    """Return the names of the shipped mappings, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def mapping_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a shipped mapping or of a path.

    Raises:
        ConstitutionError: there is no shipped mapping and no file of this name.
    """
    name = os.fspath(name_or_path)
    if name in mapping_names():
        return _FOLDER / f"{name}.yaml"
    if not Path(name).is_file():
        raise ConstitutionError(
            f"{name}: no mapping for this data set, and no file; shipped are {', '.join(mapping_names())}"
        )
    return Path(name)


def read_document_mapping(path: Path) -> tuple[DataMapping, Document]:
    """Read a mapping file and check its schema, but not its ids.

    Returns:
        The mapping and the document it was read from.

    Raises:
        ConstitutionError: the file has errors. The message is `FILE:LINE: FIELD: ...` for the first one.
    """
    try:
        document = read_document(path)
    except DocumentError as error:
        raise ConstitutionError(f"{path}:{error.line}: {error.message}; correct the mapping file") from None
    except OSError as error:
        raise ConstitutionError(f"{path}: can't be read: {error.strerror}") from None
    for place in document.duplicates:
        raise ConstitutionError(
            f"{path}:{document.line(place)}: {place[-1]}: appears twice; keep one of the two"
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
