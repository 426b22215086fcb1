"""Readers of public attack files: from a layout to prompts by method.

Errors name file, place and field, and never repeat a value, since values are attackers' text.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lockgate.errors import ExchangeError, RedTeamError
from lockgate.exchanges import Message, json_records, json_type
from lockgate.redteam.attacks._imported import SLOT, Prompt, with_slots

Found = Iterator[tuple[str, Prompt]]
_ROLES = ("system", "user", "assistant")
_JINJA = re.compile(
    r"\{%-?\s*raw\s*-?%\}(?P<raw>.*?)\{%-?\s*endraw\s*-?%\}|(?P<slot>\{\{-?\s*prompt\s*-?\}\})"
    r"|\{\{-?\s*(?P<quote>['\"])(?P<text>.*?)(?P=quote)\s*-?\}\}|(?P<other>\{[{%].*?[}%]\})",
    re.DOTALL,
)


def read_jailbreakbench(path: Path, goals: Mapping[str, str], append: bool) -> Found:
    """Read an artifact of JailbreakBench: `parameters` and a list of `jailbreaks`.

    Prompts that hold their goal become templates. Rows without a prompt are left out.
    """
    content = _object(_json(path), f"{path}")
    parameters = _object(content.get("parameters"), f"{path}: parameters")
    method = "-".join(_text(parameters.get(key), f"{path}: parameters.{key}") for key in ("method", "model"))
    for number, row in enumerate(_list(content.get("jailbreaks"), f"{path}: jailbreaks")):
        where = f"{path}: jailbreaks[{number}]"
        row = _object(row, where)
        goal = _text(row.get("goal"), f"{where}.goal")
        if row.get("prompt") is not None:
            prompt = _text(row["prompt"], f"{where}.prompt")
            yield (
                method,
                _prompt((Message("user", prompt),), goal, f"jailbreaks[{number}]", append, question=True),
            )


def read_harmbench(path: Path, goals: Mapping[str, str], append: bool) -> Found:
    """Read HarmBench's table of behaviours (CSV), or its test cases (JSON: lists of prompts by behaviour).

    Args:
        goals: the behaviours' texts by id, from `harmbench_goals`, so that test cases can become templates.
    """
    if path.suffix.lower() == ".csv":
        for line, row in _table(path):
            context = row.get("ContextString") or ""
            behaviour = _text(row.get("Behavior"), f"{path}: line {line}: Behavior")
            text = f"{context}\n\n---\n\n{behaviour}" if context else behaviour
            yield path.stem, Prompt((Message("user", text),), behaviour, f"line {line}")
        return
    for behaviour, cases in _object(_json(path), f"{path}").items():
        for number, case in enumerate(
            [cases] if isinstance(cases, str) else _list(cases, f"{path}: a behaviour")
        ):
            # The id may be an attacker's text; its place is enough.
            place = f"case {number + 1} of a behaviour"
            text = _text(case, f"{path}: {place}")
            yield (
                path.stem,
                _prompt(
                    (Message("user", text),),
                    goals.get(behaviour, behaviour),
                    place,
                    append,
                    question=behaviour in goals,
                ),
            )


def harmbench_goals(path: Path) -> dict[str, str]:
    """Return the texts of HarmBench's behaviours by their id."""
    return {
        _text(row.get("BehaviorID"), f"{path}: line {line}: BehaviorID"): _text(
            row.get("Behavior"), f"{path}: line {line}: Behavior"
        )
        for line, row in _table(path)
    }


def read_garak(path: Path, goals: Mapping[str, str], append: bool) -> Found:
    """Read garak's report or hit log (JSONL). Other entries of a report than attempts are left out."""
    for number, decode in json_records(path):
        where = f"{path}: line {number}"
        try:
            row = _object(decode(), where)
        except ExchangeError as error:
            raise RedTeamError(f"{where}: {error}") from None
        if row.get("entry_type", "attempt") != "attempt":
            continue
        key = "probe_classname" if "entry_type" in row else "probe"
        probe = _text(row.get(key), f"{where}: {key}")
        if row.get("prompt") is None:
            continue
        messages = tuple(_garak_turns(row["prompt"], f"{where}: prompt"))
        goal = row.get("goal")
        yield probe, _prompt(messages, goal if isinstance(goal, str) else None, f"line {number}", append)


def _garak_turns(prompt: object, where: str) -> Iterator[Message]:
    if isinstance(prompt, str):
        yield Message("user", _text(prompt, where))
    elif isinstance(prompt, Mapping) and "turns" not in prompt:
        yield Message("user", _text(prompt.get("text"), f"{where}.text"))
    else:
        turns = _list(_object(prompt, where).get("turns"), f"{where}.turns")
        if not turns:
            raise RedTeamError(f"{where}.turns: expected at least one turn, found none")
        for number, turn in enumerate(turns):
            place = f"{where}.turns[{number}]"
            turn = _object(turn, place)
            text = _object(turn.get("content"), f"{place}.content").get("text")
            yield Message(_role(turn.get("role"), f"{place}.role"), _text(text, f"{place}.content.text"))


def read_pyrit(path: Path, goals: Mapping[str, str], append: bool) -> Found:
    """Read a jailbreak template or a set of seed prompts of PyRIT (YAML).

    Seeds of one group make one conversation, in the order of their `sequence`. Objectives are left out:
    they are questions, and no attacks.
    """
    content = _object(_yaml(path), f"{path}")
    if "value" in content:
        text = _seed_text(content, content, f"{path}: ")
        yield _method(content, path), _prompt((Message("user", text),), None, "value", append)
        return
    key = "seeds" if "seeds" in content else "prompts"
    groups: dict[str, list[tuple[int, Message]]] = {}
    for number, seed in enumerate(_list(content.get(key), f"{path}: {key}")):
        where = f"{path}: {key}[{number}]"
        seed = {"value": seed} if isinstance(seed, str) else _object(seed, where)
        if {**content, **seed}.get("seed_type", "prompt") != "prompt" or seed.get("is_objective"):
            continue
        message = Message(
            _role(seed.get("role", "user"), f"{where}.role"), _seed_text(seed, content, f"{where}.")
        )
        alias = seed.get("prompt_group_alias")
        order = seed.get("sequence", 0)
        if isinstance(order, bool) or not isinstance(order, int):
            raise RedTeamError(f"{where}.sequence: expected a whole number, found {json_type(order)}")
        groups.setdefault(f"{key}[{number}]" if alias is None else f"group {alias}", []).append(
            (order, message)
        )
    for place, members in groups.items():
        messages = tuple(message for _, message in sorted(members, key=lambda member: member[0]))
        yield (
            _method(content, path),
            _prompt(messages, None, place if "[" in place else f"{key} of a group", append),
        )


def _seed_text(seed: Mapping[str, Any], content: Mapping[str, Any], where: str) -> str:
    kind = seed.get("data_type", content.get("data_type", "text"))
    if kind != "text":
        raise RedTeamError(
            f"{where}data_type: expected text; other kinds of prompts can't be sent, take them out"
        )
    text = _text(seed.get("value"), f"{where}value")
    parameters = seed.get("parameters") or []
    if not parameters:
        return text
    if parameters != ["prompt"]:
        raise RedTeamError(f"{where}parameters: expected the one parameter `prompt`, which is the question")

    def fill(found: re.Match[str]) -> str:
        if found["other"] is not None:
            raise RedTeamError(
                f"{where}value: expected no expression of Jinja but {{{{ prompt }}}} and raw blocks"
            )
        if found["slot"] is not None:
            return SLOT
        return found["raw"] if found["raw"] is not None else found["text"]

    return _JINJA.sub(fill, text)


def _method(content: Mapping[str, Any], path: Path) -> str:
    name = content.get("dataset_name") if "value" not in content else content.get("name")
    return name if isinstance(name, str) and name.strip() else path.stem


def _prompt(
    messages: tuple[Message, ...], goal: str | None, place: str, append: bool, *, question: bool = False
) -> Prompt:
    """Return a prompt. Its goal stands for the question if it is one, and no id or general aim."""
    return Prompt(with_slots(messages, goal if question else None, append), goal, place)


def _role(value: object, where: str) -> str:
    if value not in _ROLES:
        raise RedTeamError(f"{where}: expected one of {', '.join(_ROLES)}")
    return str(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "empty text" if isinstance(value, str) else json_type(value)
        raise RedTeamError(f"{where}: expected text, found {found}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RedTeamError(f"{where}: not valid Unicode: a lone surrogate") from None
    return value


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RedTeamError(f"{where}: expected an object, found {json_type(value)}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RedTeamError(f"{where}: expected a list, found {json_type(value)}")
    return value


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RedTeamError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RedTeamError(f"{path}: not valid UTF-8 at byte {error.start}") from None


def _json(path: Path) -> object:
    try:
        return json.loads(_content(path))
    except json.JSONDecodeError as error:
        raise RedTeamError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise RedTeamError(f"{path}: the JSON is nested too deep") from None


def _yaml(path: Path) -> object:
    try:
        return yaml.safe_load(_content(path))
    except yaml.MarkedYAMLError as error:
        line = 0 if error.problem_mark is None else error.problem_mark.line + 1
        raise RedTeamError(f"{path}: line {line}: not valid YAML") from None
    except (yaml.YAMLError, RecursionError):
        raise RedTeamError(f"{path}: not valid YAML") from None


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    reader = csv.DictReader(io.StringIO(_content(path), newline=""))
    if "Behavior" not in (reader.fieldnames or ()):
        raise RedTeamError(f"{path}: line 1: expected a column Behavior")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise RedTeamError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None
