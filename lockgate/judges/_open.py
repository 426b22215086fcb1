"""Opening of judges: from a file, a folder or a bundle's record."""

from pathlib import Path
from typing import Any

from lockgate.errors import JudgeError
from lockgate.judges._address import is_address, layout_of
from lockgate.judges._file import (
    ClassifierFile,
    GuardModelFile,
    JudgeFile,
    SequenceFile,
    read_judge_file,
)
from lockgate.judges._folder import read_config
from lockgate.judges._judge import Judge

_LAYOUT_HINT = (
    "write a judge's file (YAML) with kind: guard-model, path and template: llama-guard, qwen3guard, "
    "shieldgemma, granite-guardian or a template of your own"
)


def find_judge(source: str | Path) -> JudgeFile:
    """Return the settings that a user means: a YAML file, or a folder with a model.

    A folder of a guard model is known by its name, such as `Llama-Guard-3-1B`. For an address see
    `JudgeAddress`.

    Raises:
        JudgeError: there is nothing, or it does not say how the judge is asked.
    """
    if is_address(source):
        raise JudgeError(
            "an address alone does not say which model is asked; name it with --judge-model, or write a "
            "judge's file (YAML) with kind: endpoint, url, model, and template with prompt, harmful and "
            "harmless"
        )
    path = Path(source)
    if path.is_file():
        return read_judge_file(path)
    if not path.is_dir():
        raise JudgeError(f"{path}: no such judge; expected a YAML file or the folder of a model")
    if (path / "classifier.yaml").is_file():
        raise JudgeError(
            f"{path}: an exchange classifier also needs its backbone; give both with --classifier, if it is "
            "the guard's backbone, or write a judge's file (YAML) with kind: classifier, path and backbone"
        )
    made_for = [str(name) for name in read_config(path).get("architectures") or ()]
    if any(name.endswith("ForSequenceClassification") for name in made_for):
        return SequenceFile(path=str(path.absolute()))
    layout: Any = layout_of(path.name)
    if layout is not None and any(name.endswith("ForCausalLM") for name in made_for):
        return GuardModelFile(path=str(path.absolute()), template=layout)
    raise JudgeError(
        f"{path}: {', '.join(made_for) or 'a model'} does not say its verdict words; {_LAYOUT_HINT}"
    )


def open_judge(file: JudgeFile) -> Judge:
    """Load a local judge, or connect to none yet: an endpoint is only asked when it judges.

    Raises:
        JudgeError: the judge can't be used with these settings.
        BackboneError, BackboneMismatch, GuardError: an exchange classifier or its backbone can't be loaded.
        MissingExtra: an endpoint needs the extra `judge`.
    """
    if isinstance(file, SequenceFile):
        from lockgate.judges._sequence import SequenceJudge

        return SequenceJudge(file)
    if isinstance(file, GuardModelFile):
        from lockgate.judges._guard_model import GuardModelJudge

        return GuardModelJudge(file)
    if isinstance(file, ClassifierFile):
        from lockgate.judges._classifier import ClassifierJudge

        return ClassifierJudge(file)
    from lockgate.judges._endpoint import EndpointJudge

    return EndpointJudge(file)
