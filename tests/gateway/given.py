"""Helpers for answers that are written elsewhere: jobs whose text the test gives."""

import queue
from collections.abc import Sequence

from engine_runs import Run

from lockgate.backbones import Backbone
from lockgate.exchanges import Message
from lockgate.gateway import Engine, Hold
from lockgate.gateway._events import Event
from lockgate.gateway._intake import Intake
from lockgate.gateway._jobs import Job
from lockgate.gateway._options import NO_HOLD
from lockgate.gateway._sampling import SamplingParams
from lockgate.guards import regions_of


def given_run(
    backbone: Backbone,
    prompt: str | Sequence[Message],
    *,
    n: int = 1,
    memory: int | None = None,
    client: str = "",
    hold: Hold = NO_HOLD,
) -> Run:
    """A run whose answers the test gives."""
    messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
    chat = backbone.render(messages, add_generation_prompt=True)
    events: queue.Queue[Event] = queue.Queue()
    job = Job(
        id=f"given-{len(chat.token_ids)}",
        prompt=chat.token_ids,
        regions=regions_of(chat),
        max_tokens=1 << 40,
        n=n,
        stops=(),
        sampling=SamplingParams(),
        seed_basis="",
        deliver=events.put,
        chat=chat,
        intakes=[Intake(backbone.tokenise_answer(), hold) for _ in range(n)],
        memory=memory or min(backbone.context_length, len(chat.token_ids) + 400),
        client=client,
    )
    return Run(job, events)


def give(engine: Engine, run: Run, parts: Sequence[str], choice: int = 0, reason: str = "stop") -> None:
    for part in parts:
        engine.give(run.job, choice, part)
    engine.end_given(run.job, choice, reason)
