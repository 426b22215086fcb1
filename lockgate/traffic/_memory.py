"""The memory of conversations, calibrated on conversations that count as benign."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lockgate.calibration import check_sample, choose_threshold, refuse_training_prompts
from lockgate.cascade.memory import Memory
from lockgate.durable import scratch_folder
from lockgate.errors import CalibrationError, ConfigError
from lockgate.exchanges import Exchange, prompt_group, prompt_text, read_exchanges, write_exchanges
from lockgate.guards import Guard, GuardRecord
from lockgate.guards.memory import MemoryRecord, write_memory
from lockgate.tables import ScoresTable
from lockgate.traffic._files import score_file

# Shares of the allowance: what a calm exchange takes off.
FORGET = 0.1


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a memory is calibrated.

    Attributes:
        budget: largest share of benign conversations in which the memory may flag an exchange.
        evidence: share of the exchanges of these conversations that count as evidence: those that score
            highest.
        forget: what a calm exchange takes off, as a share of what an exchange at the threshold adds.
        skip_invalid: leave malformed rows out.
        workers: processes that score.

    Raises:
        ConfigError: a share does not lie between 0 and 1.
    """

    budget: float = 0.0005
    evidence: float = 0.01
    forget: float = FORGET
    skip_invalid: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("budget", "evidence", "forget"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a share between 0 and 1")


def exchanges_of(conversation: Exchange) -> list[Exchange]:
    """Return the exchanges of a conversation: one for each answer, with all that stands before it."""
    messages = conversation.messages
    ends = [
        number + 1
        for number, message in enumerate(messages)
        if message.role == "assistant" and any(before.role == "user" for before in messages[:number])
    ]
    return [Exchange(messages[:end]) for end in ends]


def calibrate_memory(
    guard: Guard,
    inputs: Sequence[Path],
    output: Path,
    plan: MemoryPlan | None = None,
    *,
    report: Callable[[Path, int], None] = lambda path, done: None,
) -> MemoryRecord:
    """Choose how a guard's scores add up over a conversation, and write that to a file.

    All conversations count as benign. Those in which the guard flags an exchange by itself are no matter of
    the memory: the guard's own budget pays for them.

    Args:
        inputs: files of conversations, one in each row.
        output: place of the memory file. The same call continues an interrupted run. Meanwhile the
            exchanges are kept in OUTPUT.state.
        report: called with a file and the number of its exchanges that are scored.

    Raises:
        CalibrationError: the guard has no threshold of its own yet, or the conversations are too few for the
            budget, begin with prompts that the guard was trained on, or hold no evidence at all.
        ConfigError, ExchangeError: the input can't be read.
    """
    plan = plan or MemoryPlan()
    if guard.calibration is None:
        raise CalibrationError("the guard is not calibrated; a memory adds up margins to its threshold")
    conversations = [
        conversation
        for path in inputs
        for conversation in read_exchanges(path, skip_invalid=plan.skip_invalid)
        if exchanges_of(conversation)
    ]
    listed = [exchanges_of(conversation) for conversation in conversations]
    groups = [prompt_group(exchanges[0]) for exchanges in listed]
    # What can be known before the long work is said before it.
    check_sample(len(set(groups)), plan.budget)
    if guard.training_prompts is not None:
        prompts = [prompt_text(exchanges[0]) for exchanges in listed]
        refuse_training_prompts(guard.training_prompts.find(prompts), [one.id for one in conversations])
    with scratch_folder(output.with_name(output.name + ".state"), "lockgate memory") as state:
        turns = state / "exchanges.jsonl"
        write_exchanges(turns, (exchange for exchanges in listed for exchange in exchanges))
        table = score_file(
            guard,
            turns,
            state / "scores.parquet",
            workers=plan.workers,
            report=lambda done: report(turns, done),
        )
        # Within the block: if this fails, the scores stay for the next try.
        margins = _split(margins_of(table, guard), [len(exchanges) for exchanges in listed])
        record = choose_memory(guard.record, margins, groups, plan)
        write_memory(output, record)
    return record


def margins_of(table: ScoresTable, guard: Guard) -> list[float]:
    """Return each exchange's margin: by how much its score lies above the guard's threshold."""
    cut = guard.stages.decides - guard.stages.tolerance
    return [float(score) - cut for score in table.floats("mixed_max")]


def choose_memory(
    record: GuardRecord, margins: Sequence[Sequence[float]], groups: Sequence[str], plan: MemoryPlan
) -> MemoryRecord:
    """Choose a memory from the margins of benign conversations.

    Args:
        record: of the guard whose margins these are.
        margins: of the exchanges of each conversation, in order.
        groups: the first prompt of each conversation. Those with the same one count once.

    Raises:
        CalibrationError: see `calibrate_memory`.
    """
    calm = [[one for one in course if one <= 0] for course in margins]
    every = np.array([one for course in calm for one in course])
    judged = every[np.isfinite(every)]
    if not len(judged):
        raise CalibrationError("no exchange of these conversations has a score, so there is no evidence")
    highest = float(np.quantile(every, 1 - plan.evidence, method="higher"))
    allowance = -(highest if math.isfinite(highest) else float(judged.min()))
    # A number too small to be multiplied is none.
    if plan.forget * allowance <= 0:
        raise CalibrationError("too many exchanges lie at the threshold; take a smaller share of evidence")
    draft = Memory(allowance, plan.forget * allowance, math.nextafter(allowance, math.inf))
    sums = [draft.highest(course) for course in calm]
    found = choose_threshold(sums, groups, plan.budget, 0.0, score="conversation", unjudged=True)
    return MemoryRecord(
        format=1,
        guard=record.measure,
        flag=record.decides.flag,
        allowance=allowance,
        forget=draft.forget,
        # A single exchange never reaches the allowance, and a calmer sample must not make it flag.
        limit=max(found.threshold, draft.limit),
        calibration=found.to_dict(),
        exchanges=sum(map(len, margins)),
    )


def _split(values: Sequence[float], lengths: Sequence[int]) -> list[list[float]]:
    parts, start = [], 0
    for length in lengths:
        parts.append(list(values[start : start + length]))
        start += length
    return parts
