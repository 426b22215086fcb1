"""`read_attacks`: attacks from a public file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from lockgate.errors import ConfigError, RedTeamError
from lockgate.redteam.attacks._imported import Imported, Prompt, without_doubles
from lockgate.redteam.attacks._layouts import (
    Found,
    harmbench_goals,
    read_garak,
    read_harmbench,
    read_jailbreakbench,
    read_pyrit,
)

_READERS: dict[str, Callable[[Path, Mapping[str, str], bool], Found]] = {
    "garak": read_garak,
    "harmbench": read_harmbench,
    "jailbreakbench": read_jailbreakbench,
    "pyrit": read_pyrit,
}
LAYOUTS = tuple(_READERS)


def read_attacks(
    path: Path,
    layout: str,
    *,
    behaviours: Path | None = None,
    append: bool = False,
    tries: int | None = None,
) -> list[Imported]:
    """Read attacks from a public file, one for each of its methods.

    A prompt is a template if it has a place for the question (`{query}`, `{goal}`, `[INSERT PROMPT HERE]`, or
    `{{ prompt }}` in a template of PyRIT) or holds its own goal. Another prompt serves only the query whose
    text or id is its goal.

    Args:
        path: the file.
        layout: one of `LAYOUTS`: `garak` (report or hit log), `harmbench` (behaviours or test cases),
            `jailbreakbench` (an artifact), `pyrit` (a template or seed prompts).
        behaviours: HarmBench's table of behaviours, for its test cases.
        append: whether the question is put after prompts without a place for it, such as garak's.
        tries: most attempts of an attack on a query (default: all its prompts).

    Raises:
        ConfigError: The layout is unknown, or behaviours are given for another one.
        RedTeamError: The file is not in this layout, or holds no prompt. The error names file, line or place,
            and field.
    """
    if layout not in _READERS:
        raise ConfigError(f"layout: expected one of {', '.join(LAYOUTS)}")
    if behaviours is not None and layout != "harmbench":
        raise ConfigError(f"behaviours: only for the layout harmbench, not for {layout}")
    if not path.is_file():
        raise RedTeamError(f"{path}: can't be read: no such file")
    goals = {} if behaviours is None else harmbench_goals(behaviours)
    methods: dict[str, list[Prompt]] = {}
    for method, prompt in _READERS[layout](path, goals, append):
        methods.setdefault(method, []).append(prompt)
    if not methods:
        raise RedTeamError(f"{path}: no prompt in it; is it in the layout {layout}?")
    return [
        Imported(layout, method, list(without_doubles(iter(prompts))), tries)
        for method, prompts in methods.items()
    ]
