"""A server in another precision than the calibration's claims no budget, and says why."""

import json

import pytest
from parts import make_exchange, make_guard

from lockgate.backbones import Backbone
from lockgate.calibration import required_n
from lockgate.cli._serve_run import _announce
from lockgate.decisions import LogOptions
from lockgate.errors import PrecisionWarning
from lockgate.exchanges import write_exchanges
from lockgate.gateway import EngineOptions, Gateway, GatewayOptions
from lockgate.guards import Guard
from lockgate.traffic import CalibrationPlan, calibrate

BUDGET = 0.05
WHY = "its threshold was set in float32 on cpu, and it computes in bfloat16 on cpu"


@pytest.fixture(scope="module")
def bundle(saved_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    write_exchanges(folder / "t.jsonl", [make_exchange(n, words=3) for n in range(required_n(BUDGET))])
    guard = make_guard(Backbone.load(saved_backbone("llama"), device="cpu"))
    calibrate(guard, folder / "t.jsonl", CalibrationPlan(budget=BUDGET)).save(folder / "g")
    return folder / "g"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_claim_is_shown_for_its_precision_only(bundle, saved_backbone, tmp_path, capsys, dtype) -> None:
    options = {"backbone": saved_backbone("llama"), "device": "cpu", "dtype": dtype}
    if dtype == "float32":
        guard = Guard.load(bundle, **options)
    else:
        with pytest.warns(PrecisionWarning, match=WHY):
            guard = Guard.load(bundle, **options)
    gateway = Gateway.from_guard(
        guard, GatewayOptions(LogOptions(tmp_path / "d.db"), EngineOptions("enforce"))
    )
    same = dtype == "float32"
    about = gateway.about_guard or {}
    assert about["precision"] == f"{dtype} on cpu"
    assert (about["calibrated"], about["budget"]) == ((True, BUDGET) if same else (False, None))
    assert about["uncalibrated_because"] == (None if same else WHY)
    _announce("http://x", "g", gateway, as_json=False)
    assert ("UNCALIBRATED" in capsys.readouterr().out) == (not same)
    _announce("http://x", "g", gateway, as_json=True)
    assert json.loads(capsys.readouterr().out)["guard"]["precision"] == f"{dtype} on cpu"
    gateway.close()
