"""The GPU recipe on a tiny model: every step runs with the real commands, and nothing is done twice."""

import io
import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import pytest

from lockgate.calibration import required_n
from lockgate.exchanges import prompt_group, read_exchanges
from lockgate.guards import read_bundle
from recipes.gpu_guard import run as recipe
from recipes.gpu_guard import smoke
from recipes.gpu_guard.smoke import BUDGET, write_smoke


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    recipe.main()


def read_here(line: Sequence[str]) -> dict[str, Any]:
    """What the recipe's `read_json` returns, with the command in this process: its imports are done."""
    python, option, module, *arguments = line
    assert (python, option) == (sys.executable, "-m")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(sys, "argv", [module, *arguments])
        code = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code
    assert code == 0, line
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_all_steps_run_and_are_done_once(saved_backbone, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(smoke, "_PLACES", ("at a fair",))
    monkeypatch.setattr(recipe, "read_json", read_here)
    given = ["--backbone", saved_backbone("llama"), "--output", tmp_path / "out", "--smoke", "--classifier"]
    # The tiny tokenizer has no single token for a verdict word.
    given += ["--max-tokens", 256, "--head", "value"]
    given += ["--device", "cpu", "--dtype", "bfloat16", "--epochs", 1, "--tokens", 4, "--pairs", 1]
    run(monkeypatch, *given, "--streams", 1, 4)
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    record = read_bundle(tmp_path / "out" / "guard").record
    assert (record.backbone.dtype, record.stages) == ("bfloat16", 2)
    assert found["calibrate"]["budget"] == BUDGET
    assert found["serve"]["guard"]["precision"] == "bfloat16 on cpu"
    assert found["serve"]["status"] in ("ready", "degraded")
    assert len(found["serve"]["answers"]) == found["serve"]["decisions"] == 3
    assert [row["streams"] for row in found["bench"]["rows"]] == [1, 4]
    assert all(row["tokens_s_guarded"] > 0 for row in found["bench"]["rows"])
    assert found["bench"]["dtype"] == "bfloat16"
    text = (tmp_path / "out" / "result.json").read_text()
    assert "thread" not in text.replace('"threads"', "")
    capsys.readouterr()
    run(monkeypatch, *given, "--streams", 1, 4)
    again = capsys.readouterr().out
    assert again.count("done before") == 6
    assert "begins" not in again
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == found


def test_the_generated_data_fits_its_budget_and_is_written_once(tmp_path) -> None:
    files = write_smoke(tmp_path)
    labelled, traffic = (list(read_exchanges(path)) for path in files)
    assert len({prompt_group(row) for row in traffic}) >= required_n(BUDGET)
    assert {row.label for row in labelled} == {0.0, 1.0}
    assert not {prompt_group(row) for row in labelled} & {prompt_group(row) for row in traffic}
    before = [path.stat().st_mtime_ns for path in files]
    assert write_smoke(tmp_path) == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_command_runs_in_a_process_of_its_own() -> None:
    found = recipe.lockgate("constitution", "check", "stage-magic")
    assert found == read_here(recipe.command("constitution", "check", "stage-magic"))
    assert "stage-magic" in json.dumps(found)


def test_files_must_be_given_and_faults_end_the_run(saved_backbone, tmp_path, monkeypatch) -> None:
    given = ["--backbone", saved_backbone("llama"), "--output", tmp_path / "out"]
    with pytest.raises(SystemExit, match="--exchanges and --traffic: give both files"):
        run(monkeypatch, *given)
    with pytest.raises(SystemExit, match="lockgate train ended with exit code 2"):
        run(monkeypatch, *given, "--smoke", "--epochs", 0)
    assert not (tmp_path / "out" / "result.json").exists()
