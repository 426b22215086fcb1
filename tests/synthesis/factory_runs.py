"""A small plan about stage magic, and scripts that write for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lockgate.constitution import load_constitution
from lockgate.synthesis import GenerationRequest, GeneratorSource, ScriptedGenerator
from lockgate.synthesis.factory import FactoryPlan, SynthesisResult, synthesize
from lockgate.synthesis.factory._estimate import write_stand_in

POLICY = load_constitution("stage-magic")
REFUSAL = "I'm sorry, but I can't help with that."


def tiny_plan(**changes: Any) -> FactoryPlan:
    sections: dict[str, Any] = {
        "queries": {
            "harmful_per_category": 4,
            "near_domain": 14,
            "out_of_scope": 4,
            "everyday": 3,
            "per_request": 3,
        },
        "answers": {"permitted_share": 0.4, "refused_share": 0.5},
        "pairs": {"share": 0.6},
        "augmentation": {"share": 0.4, "hold_out": ["metaphor", "letter-order"], "max_characters": 4000},
        "split": {"train": 0.7, "test": 0.3},
        "batch_rows": 16,
    }
    for name, section in changes.items():
        old = sections.get(name)
        sections[name] = (
            {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
        )
    return FactoryPlan(**sections)


def refuse_about(*words: str) -> Callable[[GenerationRequest], str]:
    """Writes, but not about these words."""

    def write(request: GenerationRequest) -> str:
        asked = request.messages[-1].content.casefold()
        return REFUSAL if any(word in asked for word in words) else write_stand_in(request)

    return write


def scripted_source(script: Callable[[GenerationRequest], Any] = write_stand_in) -> GeneratorSource:
    return GeneratorSource("scripted", lambda: ScriptedGenerator(script))


def run_factory(folder: Path, plan: FactoryPlan | None = None, **options: Any) -> SynthesisResult:
    source = options.pop("source", None) or scripted_source()
    return synthesize(POLICY, source, plan or tiny_plan(), folder, **options)


def data_of(folder: Path) -> dict[str, bytes]:
    """Every file but the cache, whose bytes depend on when what was written, and locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != ".lock" and not path.name.startswith("answers.sqlite")
    }
