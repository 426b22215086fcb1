"""What `pip install lockgate` can do without extras, shown in a process that finds nothing else installed."""

import json
import os
import subprocess
import sys

import pytest
from classifying import random_classifier
from core_install import ROOT, core_distributions, link_core
from house import QUICK_END, run_python
from parts import make_guard
from voices import random_text

import lockgate
from lockgate.backbones import Backbone
from lockgate.cascade import Cascade
from lockgate.guards import VoiceRecord

LEFT_OUT = ("matplotlib", "opentelemetry", "sklearn", "scipy", "peft", "accelerate", "ray", "pytest")
MESSAGES = [
    {"role": "user", "content": "why does the canal run past the mill"},
    {"role": "assistant", "content": "the lock holds the water back between two gates and lets a boat in"},
]
SCORING = """
import json, sys
from importlib.util import find_spec
import lockgate
# What `lockgate score` and `lockgate serve` run.
import lockgate.cli, lockgate.gateway.playground, lockgate.traffic

bundle, backbone, messages, names = json.loads(sys.argv[1])
score = lockgate.load(bundle, backbone=backbone).score(messages)
blocks = [[repr(block.probe), repr(block.classifier)] for block in score.blocks]

def fault(what):
    try:
        what()
    except lockgate.LockgateError as error:
        return [type(error).__name__, str(error)]

def fit():
    from lockgate.classifiers.text import TextBaseline
    from lockgate.exchanges import Exchange, Message
    rows = [Exchange((Message("user", str(n)), Message("assistant", "a")), float(n % 2)) for n in range(10)]
    TextBaseline.fit(rows, [str(n) for n in range(10)])

def bound():
    from lockgate.calibration import clopper_pearson_upper
    clopper_pearson_upper(1, 10)

def report():
    from lockgate.evaluation import check_report
    check_report()

def spread():
    from lockgate.synthesis import RayExecutor
    RayExecutor()

def tune():
    from lockgate.training._classifier_run import _inject
    from lockgate.classifiers import AdapterShape
    _inject(None, AdapterShape(depth=1, layers=1, rank=1, alpha=1.0), 0)

def trace():
    from lockgate.gateway import TelemetryOptions
    TelemetryOptions("http://127.0.0.1:4318")

print(json.dumps({
    "there": [name for name in names if find_spec(name)],
    "stage": score.stage,
    "blocks": blocks,
    "faults": {what.__name__: fault(what) for what in (fit, bound, report, spread, trace, tune)},
}))
"""


@pytest.fixture(scope="module")
def made(saved_backbone, tmp_path_factory) -> tuple[str, str]:
    """A guard of two stages, with an adapter and a text baseline, and its backbone, as folders."""
    path = saved_backbone("llama")
    backbone = Backbone.load(path)
    everything = Cascade(-1e6, 0.5, 0.5, 0.0, 1.0, 0.0, 1.0, tolerance=1e-3)
    voices = [VoiceRecord(kind=kind, weight=0.5) for kind in ("classifier", "text")]
    guard = make_guard(backbone).with_cascade(
        random_classifier(backbone), everything, text=random_text(), voices=voices
    )
    bundle = tmp_path_factory.mktemp("bundle") / "guard"
    guard.save(bundle)
    return str(bundle), str(path)


@pytest.fixture(scope="module")
def found(made, tmp_path_factory) -> dict:
    """What the process without extras tells."""
    links = link_core(tmp_path_factory.mktemp("core"))
    command = [sys.executable, "-S", "-c", QUICK_END + SCORING, json.dumps([*made, MESSAGES, LEFT_OUT])]
    # As many threads as here: sums in another order differ in their last digits.
    environment = {**os.environ, "PYTHONPATH": f"{links}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_guard_of_two_stages_is_loaded_and_scores_the_same(made, found) -> None:
    assert found["there"] == []
    here = lockgate.load(made[0], backbone=made[1]).score(MESSAGES)
    assert found["stage"] == here.stage == 2
    assert found["blocks"] == [[repr(block.probe), repr(block.classifier)] for block in here.blocks]
    assert len(here.blocks) > 1


@pytest.mark.parametrize(
    ("what", "extra"),
    [
        *(("fit", "train"), ("bound", "calibrate"), ("report", "report"), ("spread", "ray")),
        *(("trace", "otel"), ("tune", "train")),
    ],
)
def test_what_needs_an_extra_names_it(found, what, extra) -> None:
    kind, message = found["faults"][what]
    assert kind == "MissingExtra"
    assert f'pip install "lockgate[{extra}]"' in message


def test_every_extra_but_ray_is_part_of_dev() -> None:
    core, dev = core_distributions(), core_distributions(("dev",))
    extras = core_distributions(("calibrate", "report", "synthesis", "train"))
    assert {"scipy", "matplotlib", "scikit-learn", "peft"} <= set(extras) - set(core)
    assert set(extras) <= set(dev)


@pytest.mark.slow
@pytest.mark.embedded
def test_loading_the_embedded_guard_touches_no_optional_package() -> None:
    code = "import json, sys, lockgate; lockgate.load(); print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run_python(code))
    assert not {"matplotlib", "sklearn", "peft", "ray", "typer"} & set(loaded)
    own = [name for name in loaded if name.split(".")[0] == "lockgate"]
    assert "lockgate.guards" in own
    assert len(own) <= 70, own
