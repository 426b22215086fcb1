"""Judges: guard models, classifiers and endpoints that read text and give a logit of harm."""

from lockgate.judges._address import DEFAULT_RULE, JudgeAddress, is_address, layout_of
from lockgate.judges._file import (
    LAYOUTS,
    ClassifierFile,
    EndpointFile,
    GuardModelFile,
    JudgeFile,
    PolicyName,
    Price,
    SequenceFile,
    Template,
    TokenIds,
    read_judge_file,
    write_judge_file,
)
from lockgate.judges._judge import Judge, JudgeReading, Talk
from lockgate.judges._kept import JudgeCost, KeptJudge
from lockgate.judges._open import find_judge, open_judge
from lockgate.judges._stage import JudgeStage, no_verdict

__all__ = [
    "DEFAULT_RULE",
    "LAYOUTS",
    "ClassifierFile",
    "EndpointFile",
    "GuardModelFile",
    "Judge",
    "JudgeAddress",
    "JudgeCost",
    "JudgeFile",
    "JudgeReading",
    "JudgeStage",
    "KeptJudge",
    "PolicyName",
    "Price",
    "SequenceFile",
    "Talk",
    "Template",
    "TokenIds",
    "find_judge",
    "is_address",
    "layout_of",
    "no_verdict",
    "open_judge",
    "read_judge_file",
    "write_judge_file",
]
