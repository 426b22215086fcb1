"""The page of results. Each study writes its own block of it, between two marks."""

import re
import sys
from pathlib import Path

RESULTS_PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def write_block(page: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- NAME:start -->` and `<!-- NAME:end -->`. Exits where the marks are missing."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    marks = re.compile(f"({start}\n).*?({end})", re.DOTALL)
    before = page.read_text()
    if not marks.search(before):
        sys.exit(f"{page.name} lacks the lines {start} and {end}")
    page.write_text(marks.sub(lambda match: f"{match[1]}{text}\n{match[2]}", before))
