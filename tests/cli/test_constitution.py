import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lockgate.cli import main
from lockgate.constitution import constitution_path, load_constitution, shipped_names

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["constitution", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_constitutions_pass(run: Run, name: str) -> None:
    code, out, _ = run("check", name)
    assert (code, out) == (0, f"{constitution_path(name)}: 0 error(s), 0 warning(s)\n")


def test_a_warning_passes_and_an_error_does_not(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    text = constitution_path("stage-magic").read_text(encoding="utf-8")
    path.write_text(
        text.replace("  out_of_scope:", "  out_of_scope: []\n  everyday:").split("  everyday:\n    -")[0]
    )
    code, out, _ = run("check", path)
    assert code == 0
    assert "out_of_scope: this bucket is empty\n    remedy: " in out
    path.write_text(text.replace("severity: critical", "severity: dire", 1))
    line = path.read_text().split("\n").index("    severity: dire") + 1
    code, out, _ = run("check", path)
    assert code == 1
    assert out.startswith(f"{path}:{line}: error: harmful[2].severity: ")
    assert out.endswith("1 error(s), 0 warning(s)\n")
    code, out, _ = run("check", path, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["ok"], report["errors"], report["findings"][0]["line"]) == (False, 1, line)


def test_a_missing_file_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    code, out, err = run("check", tmp_path / "none.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "general-harms" in err


def test_list_and_show(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["name", *shipped_names()]
    listed = json.loads(run("list", "--json")[1])
    assert listed[0]["sha256"] == load_constitution(listed[0]["name"]).sha256
    assert run("show", "stage-magic")[1] == constitution_path("stage-magic").read_text(encoding="utf-8")
    assert json.loads(run("show", "stage-magic", "--json")[1])["harmful"][0]["id"] == "card-methods"
