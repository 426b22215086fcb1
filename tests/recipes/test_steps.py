"""Every step answers `--help`, and what steps share."""

import runpy
import sys
from pathlib import Path

import pytest

from recipes.steps import reporter, step_parser

ROOT = Path(__file__).parents[2]


def steps() -> list[str]:
    """Modules of recipes and benchmarks that run by themselves."""
    files = [path for room in ("recipes", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    mains = [path for path in files if 'if __name__ == "__main__"' in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in mains]
    return sorted(name.removesuffix(".__main__") for name in names)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_step_answers_help_and_does_nothing_else(monkeypatch, capsys) -> None:
    """In this process, since most of the time goes into imports that the steps share."""
    names = steps()
    assert "recipes.reproduce_ccpp.study" in names
    monkeypatch.chdir(ROOT)
    for name in names:
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        said = capsys.readouterr().out
        assert ended.value.code == 0, name
        assert "usage: " in said, name
        assert "--help" in said, name


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
