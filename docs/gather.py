"""Gather into site/ what the documentation site is built from.

That is docs/, the design notes, the pages at the top of the repository, and a page for each public room.

Links are written for readers of the repository. Here they are rewritten for readers of the site.
"""

import ast
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "site"
TOP = {"CONTRIBUTING.md": "Contributing", "CHANGELOG.md": "Changelog", "LOG.md": "Log of experiments"}
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def main() -> None:
    shutil.rmtree(TARGET, ignore_errors=True)
    (TARGET / "pages").mkdir(parents=True)
    sources = find_sources()
    for page, source in sources.items():
        text = rewrite_links(source.read_text(encoding="utf-8"), source, page, sources)
        _write(page, text)
    rooms = public_rooms()
    for room in rooms:
        _write(f"api/{room}.md", f"# {room}\n\n::: {room}\n")
    shutil.copytree(ROOT / "docs" / "images", TARGET / "pages" / "images")
    settings = yaml.safe_load((ROOT / "docs" / "site.yml").read_text(encoding="utf-8"))
    settings |= {"docs_dir": "pages", "site_dir": "html", "nav": navigation(settings["nav"], sources, rooms)}
    (TARGET / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def find_sources() -> dict[str, Path]:
    """The file behind each page of the site that is not made from docstrings."""
    found = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
    design = sorted((ROOT / "design").glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    found |= {f"design/{path.name}": path for path in design}
    return found | {name: ROOT / name for name in TOP}


def navigation(first: list[Any], sources: dict[str, Path], rooms: list[str]) -> list[Any]:
    """The sections of docs/site.yml, and behind them those that need no list by hand."""
    return [
        *first,
        {"Design": [page for page in sources if page.startswith("design/")]},
        {"API reference": [{room: f"api/{room}.md"} for room in rooms]},
        {"Project": [{title: name} for name, title in TOP.items()]},
    ]


def rewrite_links(text: str, source: Path, page: str, sources: dict[str, Path]) -> str:
    """Point links at pages of the site. A link to another file of the repository becomes its text.

    A link that leads nowhere stays as it is, so that the strict build names it.
    """
    pages = {path.resolve(): name for name, path in sources.items()}

    def rewritten(match: re.Match[str]) -> str:
        image, words, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (source.parent / target).resolve()
        if path in pages:
            place = posixpath.relpath(pages[path], posixpath.dirname(page) or ".")
            return f"{image}[{words}]({place}{anchor})"
        return words if path.exists() and not image else match[0]

    return LINK.sub(rewritten, text)


def public_rooms() -> list[str]:
    """The package and its rooms, in alphabetical order."""
    rooms = [f"lockgate.{path.parent.name}" for path in (ROOT / "lockgate").glob("*/__init__.py")]
    return sorted(room for room in ["lockgate", *rooms] if _exports(room))


def _exports(room: str) -> bool:
    """Whether the room says what it exports."""
    path = ROOT / room.replace(".", "/") / "__init__.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _write(page: str, text: str) -> None:
    target = TARGET / "pages" / page
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
