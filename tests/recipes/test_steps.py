"""Every step answers `--help`, and what steps share."""

import json
import subprocess
import sys
from pathlib import Path

from recipes.steps import reporter, step_parser

ROOT = Path(__file__).parents[2]
# All in one process, since most of the time goes into imports that the steps share.
ASK = """
import contextlib, io, json, runpy, sys
found = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        found[name] = [ended.code, said.getvalue()]
print(json.dumps(found))
"""


def steps() -> list[str]:
    """Modules of recipes and benchmarks that run by themselves."""
    files = [path for room in ("recipes", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    mains = [path for path in files if 'if __name__ == "__main__"' in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in mains]
    return sorted(name.removesuffix(".__main__") for name in names)


def test_every_step_answers_help_and_does_nothing_else() -> None:
    names = steps()
    assert "recipes.reproduce_ccpp.study" in names
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", ASK, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name: code for name, (code, _) in found.items()} == dict.fromkeys(names, 0)
    assert all("usage: " in said and "--help" in said for _, said in found.values())


def test_a_parser_shows_the_docstring_line_by_line(capsys) -> None:
    step_parser("First.\n\n    python -m this --that").print_help()
    assert "\n    python -m this --that\n" in capsys.readouterr().out


def test_news_stand_behind_the_name(capsys) -> None:
    reporter("dev")(12)
    assert capsys.readouterr().out == "dev: 12\n"


def test_no_module_is_found_by_the_order_of_a_path() -> None:
    files = [
        path for room in ("recipes", "benchmarks", "tests/recipes") for path in (ROOT / room).rglob("*.py")
    ]
    assert len(files) > 80
    assert [path for path in files if "sys." + "path" in path.read_text()] == []
