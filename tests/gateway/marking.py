"""A guard that flags one character and nothing else, and what the engine has read of a request."""

import re
from pathlib import Path
from typing import Any

import torch
from models import tiny_model, tokenizer_for
from serving import scoring_for

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead
from lockgate.gateway import Gateway, Scoring
from lockgate.gateway._jobs import Job

MARK = "~"  # a token of its own, which no field of an API needs
DOCUMENT = Path(__file__).parents[2] / "docs" / "upstream.md"
_LOUD = 1_000.0


def marking_backbone() -> Backbone:
    """A tiny model that puts the mark, and no other token, far out on the first dimension."""
    model, tokenizer = tiny_model("llama", seed=11), tokenizer_for("llama")
    (mark,) = tokenizer.encode(MARK, add_special_tokens=False)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[mark] = 0
        table[mark, 0] = _LOUD
    return Backbone(model, tokenizer, name="marking")


def marking_guard(backbone: Backbone) -> Scoring:
    """A probe that reads the first dimension: it flags at the mark."""
    weights = torch.zeros(2, 1, backbone.hidden_size)
    weights[0, 0, 0] = 1
    head = ProbeHead((0,), "residual", weights, torch.tensor([-_LOUD / 2, 0.0]), 1.0, ("marked",))
    return scoring_for(backbone, head, 0.0, flag_on="both", min_tokens=1)


class Watched:
    """What the engine of a gateway gets to read."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.jobs: list[Job] = []
        self.given: dict[int, str] = {}  # the texts of the newest job's choices
        self._submit, self._give = gateway.engine.submit, gateway.engine.give
        gateway.engine.submit = self._watch_submit  # type: ignore[method-assign]
        gateway.engine.give = self._watch_give  # type: ignore[method-assign]

    def _watch_submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.given = {}
        self._submit(job)

    def _watch_give(self, job: Job, choice: int, text: str) -> None:
        self.given[choice] = self.given.get(choice, "") + text
        self._give(job, choice, text)

    def roles_of_the_mark(self) -> set[str]:
        """As whose words the newest job's prompt holds the mark."""
        chat = self.jobs[-1].chat
        assert chat is not None
        (mark,) = self.gateway.backbone.tokenizer.encode(MARK, add_special_tokens=False)
        return {span.role for span in chat.spans if mark in chat.token_ids[span.start : span.end]}


def rows_of(heading: str) -> dict[str, str]:
    """The rows of a table of the document: what its first cell names, and what the second says."""
    _, _, rest = DOCUMENT.read_text().partition(f"| {heading} |")
    table, _, _ = rest.partition("\n\n")
    found = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)
    rows = dict(found)
    assert len(rows) == len(found) >= 5
    return rows


def marked(value: Any, mark: str) -> Any:
    """The same JSON value with `mark` where it says MARK."""
    if isinstance(value, str):
        return value.replace("MARK", mark)
    if isinstance(value, dict):
        return {key.replace("MARK", mark): marked(item, mark) for key, item in value.items()}
    return [marked(item, mark) for item in value] if isinstance(value, list) else value
