"""YAML with line numbers, so that every finding can name its line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 16

Location = tuple[str | int, ...]


class DocumentError(Exception):
    """A file that is not plain YAML; `line` counts from 1."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Document:
    """A decoded YAML file: its value, the line of each place in it, and the keys that appear twice."""

    value: Any
    lines: dict[Location, int]
    duplicates: list[Location] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """Return the line of `location`, or of its nearest parent that the file has."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def read_document(path: Path) -> Document:
    """Read one YAML document. Tags and aliases are refused.

    Raises:
        DocumentError: the file is not UTF-8, not YAML, too large, or uses a part of YAML that is not
            supported.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DocumentError(1, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", "split the policy")
    try:
        return parse_document(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(line, "the file is not valid UTF-8", "save it as UTF-8") from None


def parse_document(text: str) -> Document:
    """Parse YAML text; see `read_document`."""
    try:
        _refuse_surprises(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise DocumentError(
                1, "the file is empty", "start from `lockgate constitution show general-harms`"
            )
        document = Document(None, {})
        value = _construct(loader, node, (), document)
        return Document(value, document.lines, document.duplicates)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DocumentError(
            line, f"not valid YAML: {error.problem}", "check indentation and quotes"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise DocumentError(line, "a control character is in the file", "remove it") from None


def _refuse_surprises(text: str) -> None:
    # Nested aliases can unfold to gigabytes. Deep nesting takes the parser quadratic time. A policy for
    # human readers needs neither.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = event.start_mark
        line = mark.line + 1 if mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError(line, "a YAML alias (`*name`) is used", "write the text out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise DocumentError(line, "the YAML is nested too deeply", "a constitution has four levels")


def _construct(loader: yaml.SafeLoader, node: yaml.Node, where: Location, document: Document) -> object:
    document.lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(loader, node, where, document))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*where, index), document) for index, item in enumerate(node.value)]
    try:
        value: object = loader.construct_object(node)
    except ValueError:
        # For example 2026-02-30: it looks like a date, but there is no such day.
        message = "a value looks like a number or a date but is not a valid one"
        raise DocumentError(node.start_mark.line + 1, message, "put it in quotes") from None
    if isinstance(value, str):
        _refuse_surrogates(value, node)
    return value


def _refuse_surrogates(text: str, node: yaml.Node) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        message = "text that is not valid Unicode (a lone surrogate escape)"
        raise DocumentError(node.start_mark.line + 1, message, "remove the escape")


def _pairs(
    loader: yaml.SafeLoader, node: yaml.MappingNode, where: Location, document: Document
) -> Iterator[tuple[str, object]]:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise DocumentError(line, "a key is not plain text", "use a word as the key")
        key = str(key_node.value)
        _refuse_surrogates(key, key_node)
        place = (*where, key)
        if place in document.lines:
            document.duplicates.append(place)
            # The later line is the one to remove.
            document.lines[place] = line
            yield key, _construct(loader, value_node, (*where, key, "again"), document)
            continue
        document.lines[place] = line
        yield key, _construct(loader, value_node, place, document)
