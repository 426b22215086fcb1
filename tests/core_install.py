"""A folder with the packages that `pip install lockgate` installs, as links into this environment."""

import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def core_distributions(extras: tuple[str, ...] = ()) -> dict[str, Distribution]:
    """The project's dependencies and theirs, by name; of the project's own extras, those named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name == "lockgate":
            wanted += [
                line for extra in requirement.extras for line in project["optional-dependencies"][extra]
            ]
            continue
        if (key := f"{name}{sorted(requirement.extras)}") in seen:
            continue
        seen.add(key)
        found[name] = distribution(name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                wanted.append(line)
    return found


def link_core(folder: Path, extras: tuple[str, ...] = ()) -> Path:
    """Fill `folder` with links to the modules of `core_distributions`; for PYTHONPATH of `python -S`."""
    for found in core_distributions(extras).values():
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    return folder
