"""The cost of representation re-use: the exchange classifier alone, and on activations that the backbone has computed.

    python -m recipes.reproduce_ccpp.cost --out runs/four_systems

Both ways give verdicts at every block of the same benign test exchanges, in float32. They take turns within one run. The
scores are the same by construction; the largest difference is recorded. FLOPs follow from a formula, CPU seconds are
measured. Writes `results/four_systems/cost.json`. It holds ratios, because seconds depend on the machine and its load.
Takes five minutes.
"""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.classifiers import ExchangeClassifier, block_ends, score_blocks
from lockgate.durable import file_sha256
from lockgate.evaluation import collect_provenance
from lockgate.exchanges import Exchange
from recipes.reproduce_ccpp.parts import Part
from recipes.reproduce_ccpp.places import Places, make_parser, read_places
from recipes.reproduce_ccpp.shared_reader import SharedReader

EXCHANGES = 96
# Exchanges that are read together. With this number, both ways fill their steps to a similar degree.
GROUP = 32


@dataclass(slots=True)
class Spent:
    """FLOPs and CPU seconds of all exchanges, alone and shared, and the largest difference of the scores."""

    flops_alone: float = 0.0
    flops_shared: float = 0.0
    cpu_alone: float = 0.0
    cpu_shared: float = 0.0
    difference: float = 0.0
    exchanges: int = 0


def main() -> None:
    measure(read_places(make_parser(__doc__).parse_args()), EXCHANGES)


def measure(places: Places, exchanges: int) -> None:
    """Measure and write the record. Needs the trained exchange classifier."""
    torch.set_num_threads(1)
    classifier = ExchangeClassifier.load(places.model("exchange"), Backbone.load(places.backbone))
    reader = SharedReader(classifier)
    source = places.out / "benign_test.jsonl"
    # Exchanges beyond the context are read in another way. Nearly all fit into it.
    rows = Part("benign_test", exchanges).read(places.out)
    spent = Spent()
    while group := list(itertools.islice(rows, GROUP)):
        compare(classifier, reader, group, spent)
        print(f"cost: {spent.exchanges}", flush=True)
    command = ["python", "-m", "recipes.reproduce_ccpp.cost", "--out", "runs/four_systems"]
    content = {
        "n": spent.exchanges,
        "shared_over_alone": {
            "flops": spent.flops_shared / spent.flops_alone,
            "cpu": spent.cpu_shared / spent.cpu_alone,
        },
        "largest_difference": spent.difference,
        "classifier": file_sha256(places.model("exchange") / "classifier.yaml"),
        "provenance": collect_provenance(command, {}, [source]),
    }
    (places.results / "cost.json").write_text(json.dumps(content, indent=1) + "\n")


def compare(
    classifier: ExchangeClassifier, reader: SharedReader, group: Sequence[Exchange], spent: Spent
) -> None:
    """Read one group in both ways and add the costs to those so far."""
    started = time.process_time()
    alone = list(score_blocks(classifier, group))
    spent.cpu_alone += time.process_time() - started
    shared = read_shared(classifier, reader, group, spent)
    spent.flops_alone += sum(score.flops for score in alone)
    spent.exchanges += len(group)
    gaps = (
        abs(a - b)
        for score, own in zip(alone, shared, strict=True)
        for a, b in zip(score.logits, own, strict=True)
    )
    spent.difference = max(spent.difference, *gaps)


def read_shared(
    classifier: ExchangeClassifier, reader: SharedReader, group: Sequence[Exchange], spent: Spent
) -> list[list[float]]:
    """Return verdicts at every block from the activations of a backbone that reads along. Its own time is not counted."""
    base = classifier.base
    chats = [classifier.render(row.messages) for row in group]
    edges = [
        [
            chat.prefix_length,
            *(chat.answer_start + end for end in block_ends(chat.answer_end - chat.answer_start)),
        ]
        for chat in chats
    ]
    room = len(classifier.suffix)
    memory = sum(chat.answer_end + room + 1 for chat in chats) + base.context_length
    found: list[list[float]] = [[] for _ in group]
    with SessionPool(base, memory) as below, reader.pool(memory) as own:
        held = [
            below.open(chat.answer_end + room, prefix=chat.token_ids[: chat.prefix_length]) for chat in chats
        ]
        sessions = [
            reader.open(own, session, chat, chat.answer_end)
            for session, chat in zip(held, chats, strict=True)
        ]
        for block in range(max(map(len, edges)) - 1):
            here = [i for i, own_edges in enumerate(edges) if len(own_edges) > block + 1]
            ids = [chats[i].token_ids[edges[i][block] : edges[i][block + 1]] for i in here]
            below.read([Feed(held[i], new) for i, new in zip(here, ids, strict=True) if new], reader.tap)
            hidden = iter(torch.split(reader.tap.hidden, [len(new) for new in ids if new]))
            started = time.process_time()
            for i, new in zip(here, ids, strict=True):
                if new:
                    sessions[i].extend(new, next(hidden))
            for i, logit in zip(here, reader.judge(own, [sessions[i] for i in here]), strict=True):
                found[i].append(logit)
            spent.cpu_shared += time.process_time() - started
            spent.flops_shared += sum(
                reader.flops(len(new), edges[i][block], 1) for i, new in zip(here, ids, strict=True)
            )
        for session in sessions:
            session.close()
    return found


if __name__ == "__main__":
    main()
