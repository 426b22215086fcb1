"""`results/engines.json`: figures of the engines and precisions. Each benchmark writes its own part."""

import json
from pathlib import Path
from typing import Any

__all__ = ["TARGET", "write_part"]

TARGET = Path(__file__).parents[1] / "results" / "engines.json"


def write_part(name: str, content: Any, target: Path = TARGET) -> None:  # noqa: ANN401 - JSON
    """Replace one part of the file and leave all others as they are."""
    found = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    found[name] = content
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")
