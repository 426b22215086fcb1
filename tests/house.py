"""Measures of the package: files, imports, rooms, and the modules that loading a guard imports.

Run it as a script to write `results/house.json`. With `--check` it only compares the file with the package.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "house.json"
REGENERATE = "run scripts/house and commit results/house.json"

_ROW = re.compile(r"^\| (?P<room>[^|]+) \| (?P<holds>[^|]+) \| (?P<imports>[^|]+) \|$", re.MULTILINE)
_QUOTED = re.compile(r"`([^`]+)`")
# Collections of a million imported objects take seconds.
QUICK_END = "import atexit, gc; gc.disable(); atexit.register(gc.freeze)\n"
_LOADING = """
import json, sys, time
import torch
import transformers.modeling_utils
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
started = time.perf_counter()
import lockgate.guards
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(name for name in sys.modules if name.split(".")[0] == "lockgate")]))
"""


class Import(NamedTuple):
    """An import of our own code, wherever it stands: at the top, in a function or for types alone."""

    source: str
    line: int
    target: str
    name: str | None

    def __str__(self) -> str:
        imported = f"{self.target}.{self.name}" if self.name else self.target
        return f"{self.source}, line {self.line}: {imported}"


class Room(NamedTuple):
    """A row of the table in `design/README.md`; `members` are names of files or folders in the package."""

    name: str
    members: tuple[str, ...]
    imports: tuple[str, ...]


@cache
def files(package: str = "lockgate") -> Mapping[str, Path]:
    """Every file of a package by the name of its module."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path) -> Iterator[Import]:
    """What a file imports of `lockgate`, a line for each name."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            outer = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            target = ".".join([*outer, *filter(None, [node.module])])
            found = [_split(target, alias.name) for alias in node.names]
        else:
            continue
        for target, name in found:
            if target.split(".")[0] == "lockgate":
                yield Import(module, node.lineno, target, name)


def _split(target: str, name: str) -> tuple[str, str | None]:
    """Module and name; what is imported may be a module itself."""
    whole = f"{target}.{name}"
    return (whole, None) if whole in files() else (target, name)


@cache
def imports(package: str = "lockgate") -> tuple[Import, ...]:
    """All imports of our own code in a package."""
    return tuple(found for module, path in files(package).items() for found in imports_of(module, path))


def circles() -> list[list[str]]:
    """Files that import each other, over however many others."""
    graph: dict[str, set[str]] = {module: set() for module in files()}
    for found in imports():
        graph[found.source].add(found.target)
    reached = {module: _reach(graph, module) for module in graph}
    joined = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }
    return sorted(sorted(members) for members in joined)


def _reach(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


@cache
def rooms() -> tuple[Room, ...]:
    """The table of `design/README.md`, from the ground up."""
    text = (ROOT / "design" / "README.md").read_text(encoding="utf-8")
    found = []
    table = text[text.index("| Room |") :].partition("\n\n")[0]
    for row in _ROW.finditer(table):
        if names := _QUOTED.findall(row["room"]):
            name = row["room"].partition("(")[0].strip(" `")
            found.append(Room(name, tuple(names), tuple(_QUOTED.findall(row["imports"]))))
    return tuple(found)


def room_of(module: str) -> str:
    """The room in which a module stands. Raises LookupError if the table knows none."""
    parts = module.split(".")
    own = parts[1] if len(parts) > 1 else "__init__"
    for room in rooms():
        if own in room.members:
            return room.name
    raise LookupError(f"{module} stands in no room of design/README.md")


def exports(module: str) -> list[str] | None:
    """`__all__` of a module, None if it has none."""
    for node in ast.parse(files()[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def crossing(package: str = "lockgate") -> list[Import]:
    """Imports that lead from one room to another; from another package all of them do."""
    if package != "lockgate":
        return list(imports(package))
    return [found for found in imports() if room_of(found.source) != room_of(found.target)]


def is_private(found: Import) -> bool:
    """Whether an import takes what its room keeps to itself. The files of the ground are everybody's."""
    names = [*found.target.split(".")[2:], *([found.name] if found.name else [])]
    return any(name.startswith("_") and not name.startswith("__") for name in names)


def count_lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def third_party(modules: list[str]) -> list[str]:
    """Packages that these modules import at their top, but for Python's own and ours."""
    found = set()
    for module in modules:
        for node in ast.parse(files()[module].read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return sorted(found - sys.stdlib_module_names - {"lockgate"})


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter that finds this checkout first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", QUICK_END + code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def measure(*, runs: int = 1) -> dict[str, Any]:
    """The contents of `results/house.json`; seconds are those of the fastest run."""
    loads = [json.loads(run_python(_LOADING)) for _ in range(runs)]
    modules = loads[0][1]
    lines = {module: count_lines(path) for module, path in files().items()}
    by_room: dict[str, list[int]] = {room.name: [] for room in rooms()}
    for module, count in lines.items():
        by_room[room_of(module)].append(count)
    return {
        "import_closure": {
            "modules": len(modules),
            "third_party": third_party(modules),
            "seconds_over_torch_transformers": round(min(seconds for seconds, _ in loads), 2),
        },
        "package_lines": sum(lines.values()),
        "rooms": {name: {"files": len(counts), "lines": sum(counts)} for name, counts in by_room.items()},
        "circles": len(circles()),
        "private_imports_across_rooms": sum(map(is_private, crossing())),
        "public_names": sum(len(exports(module) or ()) for module in files()),
    }


def without_seconds(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what differs from machine to machine."""
    closure = {k: v for k, v in record["import_closure"].items() if not k.startswith("seconds")}
    return {**record, "import_closure": closure}


def main(arguments: list[str]) -> int:
    """Write the record, or compare it."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: scripts/house [--check]\n")
        return 2
    if not arguments:
        RECORD.write_text(json.dumps(measure(runs=3), indent=1) + "\n", encoding="utf-8")
        return 0
    if without_seconds(json.loads(RECORD.read_text(encoding="utf-8"))) == without_seconds(measure()):
        return 0
    sys.stderr.write(f"results/house.json is not what the package is: {REGENERATE}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
