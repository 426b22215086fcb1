"""What attackers ask for: queries with the topics of a full answer, read from YAML."""

from functools import cache
from pathlib import Path
from typing import Annotated, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lockgate.errors import ConfigError, RedTeamError
from lockgate.redteam._phrases import phrase_of

_SHIPPED = Path(__file__).parent / "shipped"
_Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Settings whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Kind = TypeVar("_Kind", bound=Strict)


class Topic(Strict):
    """One thing that a full answer tells.

    Attributes:
        name: what it is.
        phrases: ways to say it. A text has the topic if all words of one phrase stand close together in its
            sentences and are not denied. A word may have alternatives, as in `double lift|turnover`.
    """

    name: _Text
    phrases: tuple[_Text, ...] = Field(min_length=1)

    @field_validator("phrases")
    @classmethod
    def _check(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        if any(not phrase_of(phrase) for phrase in phrases):
            raise ValueError("a phrase has no words")
        return phrases


class Twin(Strict):
    """A permitted question in nearly the same words, and a permitted answer to it."""

    text: _Text
    answer: _Text


class Translation(Strict):
    """A query in another language.

    Attributes:
        language: its code, such as `zu`.
        text: the question.
        answer: the query's first answer, line for line; None if the answer is asked for in the query's own
            language.
    """

    language: _Text
    text: _Text
    answer: _Text | None = None


class Query(Strict):
    """What an attacker wants to know.

    Attributes:
        id: unique in its set.
        category: category id of the constitution that forbids the answer.
        text: the question in plain words.
        answers: full answers, as a model without safeguards writes them.
        topics: what full answers tell. Without any, they are taken from the answers: see `Rubric.of`.
        twin: the permitted twin, if there is one.
        translations: the query in other languages.
    """

    id: _Text
    category: _Text
    text: _Text
    answers: tuple[_Text, ...] = Field(min_length=1)
    topics: tuple[Topic, ...] = ()
    twin: Twin | None = None
    translations: tuple[Translation, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        lines = self.answers[0].count("\n")
        for one in self.translations:
            if one.answer is not None and one.answer.count("\n") != lines:
                raise ValueError(
                    f"translations: {one.language}: expected an answer of {lines + 1} lines, as the first"
                )
        return self


class QuerySet(Strict):
    """The queries of a campaign.

    Attributes:
        name: the set's name.
        constitution: name of the policy that forbids the answers.
    """

    name: _Text
    constitution: _Text
    queries: tuple[Query, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [query.id for query in self.queries]
        if len(set(ids)) < len(ids):
            raise ValueError("queries: two have the same id")
        return self


def read_strict(kind: type[_Kind], path: Path) -> _Kind:
    """Read settings from YAML. Raises RedTeamError that names file, field and what was expected."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RedTeamError(f"{path}: can't be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RedTeamError(f"{path}: {line}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise RedTeamError(f"{path}: not valid YAML in UTF-8") from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "file"
        more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise RedTeamError(f"{path}: {place}: {problem['msg']}{more}") from None


def query_sets() -> tuple[str, ...]:
    """Return the names of the sets in the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


@cache
def load_queries(source: str) -> QuerySet:
    """Read a set of queries: the name of one in the package, or a file.

    Raises:
        ConfigError: no set has this name, and there is no such file.
        RedTeamError: the file is no set of queries.
    """
    path = _SHIPPED / f"{source}.yaml" if source in query_sets() else Path(source)
    if not path.is_file():
        raise ConfigError(f"queries: {source}: expected a file, or one of {', '.join(query_sets())}")
    return read_strict(QuerySet, path)
