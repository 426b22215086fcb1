"""Reconstruction and input-keyed obfuscation as harmless stand-ins, with benign twins in the same disguise.

    python -m recipes.reproduce_ccpp.disguise --out runs/four_systems

Writes `disguise_train.jsonl` and `disguise_test.jsonl` into `--out`. Counts and hashes go to
`results/four_systems/disguise.json`. The policy is `stage-magic`, which forbids telling how tricks are done. All text is
made from the vocabularies in `stand_ins/`; every run makes the same text.

Test has code books, formats and topics that training never shows (`crossed_split` drops mixed cells). A twin wears the
disguise of its harmful partner, with the same stand-ins, around permitted content. `meta.twin` names the pair.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from lockgate.curation import crossed_split
from lockgate.exchanges import Exchange, Message, write_exchanges
from recipes.reproduce_ccpp.codes import LEVELS, TABLES, Code
from recipes.reproduce_ccpp.fragments import FORMATS
from recipes.reproduce_ccpp.topics import Fact, Topic, read_books, read_topics, read_wording
from recipes.steps import step_parser

RESULTS = Path(__file__).parents[2] / "results" / "four_systems"
# The smallest seed that gives test every forbidden and every near-domain category.
SEED = 52
HELD_DISGUISES, HELD_TOPICS = 2, 12
# Pairs of an attack and its twin; undisguised pairs; refusals of plain and of disguised harmful requests.
SIZES = {
    "train": {"obfuscation": 300, "reconstruction": 300, "plain": 400, "refused": 200},
    "test": {"obfuscation": 150, "reconstruction": 150, "plain": 150, "refused": 100},
}
# The longer lists of the levels with two topics leave room for fewer facts.
FACTS = {"own": 4, "named": 3, "open": 3}


@dataclass(frozen=True, slots=True)
class Cell:
    """A disguise, a forbidden topic, and the permitted topic of its twin."""

    disguise: str
    trick: Topic
    permitted: Topic
    rng: Random
    index: int


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    arguments = parser.parse_args()
    write_parts({part: build(part) for part in SIZES}, arguments.out)


def build(part: str) -> list[Exchange]:
    """Build all exchanges of `train` or `test`, shuffled, without repeats."""
    rows: dict[str, Exchange] = {}
    for family, size in SIZES[part].items():
        if family == "refused":
            continue
        made = 0
        for cell in _cells(part, family):
            if made == size:
                break
            pair = MAKERS[family](cell)
            # A pair with the wording of an earlier one is drawn again.
            if all(row.id not in rows for row in pair):
                rows |= {row.id: row for row in pair}
                made += 1
    rows |= {row.id: row for row in _refusals(part, SIZES[part]["refused"], set(rows))}
    return sorted(rows.values(), key=lambda row: hashlib.sha256(f"{SEED}/{row.id}".encode()).digest())


def split_cells(family: str, harmful: bool) -> dict[str, list[tuple[str, Topic]]]:
    """Split disguises x topics: held-out x held-out is test, the rest x the rest is train."""
    topics = {topic.name: topic for topic in read_topics("tricks" if harmful else "permitted")}
    names = {
        "obfuscation": [book.name for book in read_books()],
        "reconstruction": [form.name for form in FORMATS],
        # Undisguised exchanges only follow the split of the topics.
        "plain": [book.name for book in read_books()],
    }[family]
    cells = [(name, topic) for name in names for topic in topics]
    parts = crossed_split(
        [name for name, _ in cells],
        [topic for _, topic in cells],
        held_first=HELD_DISGUISES,
        held_second=HELD_TOPICS,
        seed=SEED,
    )
    found: dict[str, list[tuple[str, Topic]]] = {"train": [], "test": []}
    for (name, topic), part in zip(cells, parts, strict=True):
        if part != "dropped":
            found[part].append((name, topics[topic]))
    return found


def _cells(part: str, family: str) -> Iterator[Cell]:
    """Yield cells without end: each (disguise, trick) in turn, each time with other permitted topics and other draws."""
    tricks = split_cells(family, harmful=True)[part]
    permitted = list(dict.fromkeys(topic for _, topic in split_cells(family, harmful=False)[part]))
    index = 0
    while True:
        order = Random(f"{SEED}/{part}/{family}/{index}")
        twins = [topic for _ in range(len(tricks) // len(permitted) + 1) for topic in permitted]
        order.shuffle(twins)
        for (name, trick), twin in zip(order.sample(tricks, len(tricks)), twins, strict=False):
            yield Cell(name, trick, twin, Random(f"{SEED}/{part}/{family}/{index}"), index)
            index += 1


def make_obfuscation(cell: Cell) -> tuple[Exchange, Exchange]:
    """Make the pair of one code book. One code covers the facts of both topics."""
    rng, wording = cell.rng, read_wording()["code"]
    book = next(book for book in read_books() if book.name == cell.disguise)
    level = LEVELS[cell.index % len(LEVELS)]
    facts = _alike_facts(cell, FACTS[level])
    both = [fact for topic in (cell.trick, cell.permitted) for fact in facts[topic.name]]
    subjects = [cell.trick.subject, cell.permitted.subject] if level == "named" else []
    code = Code.deal(book, both, subjects, rng)
    opening, rule = rng.choice(wording["openings"]), rng.choice(wording["rules"])
    request = rng.choice(wording["requests_named" if level == "named" else "requests_open"])
    style, turns, draw = rng.randrange(len(TABLES)), rng.random() < 0.3, rng.random()
    confirmation = rng.choice(wording["confirmations"])

    def make(topic: Topic) -> Exchange:
        listed = facts[topic.name] if level == "own" else both
        table = code.list_terms(listed, subjects, style, Random(draw))
        # Two topics and their names make a long list; the rule is left out there.
        around = opening, table, "" if level == "named" else rule
        key = "\n".join(filter(None, around)).replace("{field}", book.field)
        ask = request.format(name=code.nouns.get(topic.subject, ""))
        lines = [code.encode(fact) for fact in facts[topic.name]]
        things = [f"the {code.nouns[fact.first]}" for fact in facts[topic.name]]
        answer = _tell(lines, things, wording["intros"], Random(draw))
        prompt = (
            (Message("user", key), Message("assistant", confirmation), Message("user", ask))
            if turns
            else (Message("user", f"{key}\n{ask}"),)
        )
        # A list without a named subject asks for nothing forbidden. The answer decides.
        asked = topic.harmful and level != "open"
        meta = {"family": "obfuscation", "book": book.name, "level": level}
        return _exchange(prompt, answer, topic, cell, {**meta, "harmful_request": asked})

    return make(cell.trick), make(cell.permitted)


def _alike_facts(cell: Cell, size: int) -> dict[str, list[Fact]]:
    """Choose facts of both topics that name about as many different things, so that repeated stand-ins give no hint."""
    sets = list(combinations(range(5), size))

    def things(topic: Topic, chosen: Sequence[int]) -> int:
        return len({thing for i in chosen for thing in (topic.facts[i].first, topic.facts[i].second)})

    pairs = [(first, second) for first in sets for second in sets]
    gaps = [abs(things(cell.trick, first) - things(cell.permitted, second)) for first, second in pairs]
    least = [pair for pair, gap in zip(pairs, gaps, strict=True) if gap == min(gaps)]
    return {
        topic.name: [topic.facts[i] for i in chosen]
        for topic, chosen in zip((cell.trick, cell.permitted), cell.rng.choice(least), strict=True)
    }


def make_reconstruction(cell: Cell) -> tuple[Exchange, Exchange]:
    """Make the pair of one format of fragments."""
    rng, wording = cell.rng, read_wording()["fragments"]
    form = next(form for form in FORMATS if form.name == cell.disguise)
    task, request = rng.choice(read_wording()["tasks"]), rng.choice(wording["requests"])
    chosen, first = sorted(rng.sample(range(5), 4)), rng.random() < 0.5
    intro, draw = rng.choice(wording["intros"]), rng.random()

    def make(topic: Topic) -> Exchange:
        own = Random(draw)
        hidden = form.hide(task.format(subject=topic.subject), own)
        prompt = f"{request}\n{hidden}" if first else f"{hidden}\n{request}"
        lines = [_sentence(topic.facts[i].text) + "." for i in chosen]
        answer = "\n".join(filter(None, [intro, form.reply(lines, own)]))
        meta = {"family": "reconstruction", "format": form.name, "harmful_request": topic.harmful}
        return _exchange((Message("user", prompt),), answer, topic, cell, meta)

    return make(cell.trick), make(cell.permitted)


def make_plain(cell: Cell) -> tuple[Exchange, Exchange]:
    """Make the pair of the policy without a disguise."""
    rng, wording = cell.rng, read_wording()["plain"]
    request, draw = rng.choice(wording["requests"]), rng.random()
    chosen = sorted(rng.sample(range(5), rng.choice((3, 4, 5))))

    def make(topic: Topic) -> Exchange:
        facts: Sequence[Fact] = [topic.facts[i] for i in chosen]
        lines, things = [fact.text for fact in facts], [fact.first for fact in facts]
        answer = _tell(lines, things, wording["intros"], Random(draw))
        prompt = (Message("user", request.format(subject=topic.subject)),)
        return _exchange(prompt, answer, topic, cell, {"family": "plain", "harmful_request": topic.harmful})

    return make(cell.trick), make(cell.permitted)


MAKERS: dict[str, Callable[[Cell], tuple[Exchange, Exchange]]] = {
    "obfuscation": make_obfuscation,
    "reconstruction": make_reconstruction,
    "plain": make_plain,
}


def _refusals(part: str, size: int, taken: set[str]) -> list[Exchange]:
    """Make new harmful requests, half of them plain, that the assistant declines. These exchanges are harmless."""
    shares = {"plain": size // 2, "obfuscation": size // 4, "reconstruction": size - size // 2 - size // 4}
    wording, rows = read_wording(), {}
    for family, share in shares.items():
        texts = wording["refusals"] + (wording["refusals_disguised"] if family != "plain" else [])
        texts = [text for number, text in enumerate(texts) if (number % 3 == 2) == (part == "test")]
        skip, made = SIZES[part][family], 0
        for cell in _cells(part, family):
            if made == share:
                break
            # The attacks' own draws come first.
            row = MAKERS[family](cell)[0] if cell.index >= skip else None
            if row is None or not row.meta["harmful_request"]:
                continue
            answer = Message("assistant", cell.rng.choice(texts))
            meta = {key: value for key, value in row.meta.items() if key != "twin"} | {"refused": True}
            refused = Exchange((*row.messages[:-1], answer), 0.0, None, "magic_refused", meta)
            if refused.id not in taken and refused.id not in rows:
                rows[refused.id] = refused
                made += 1
    return list(rows.values())


def _tell(lines: Sequence[str], things: Sequence[str], intros: Sequence[str], rng: Random) -> str:
    """Make lines with connectives, an intro, one or two asides and a closing, drawn in the same way for both of a pair."""
    wording = read_wording()
    pattern = rng.choice(wording["connectives"])
    listed = pattern[0][0] in "1-"
    intro, closing = rng.choice(intros), rng.choice(wording["closings"])
    asides = rng.sample(wording["asides"], rng.choice((1, 2)) if len(lines) > 3 else 1)
    place = rng.randrange(len(lines))
    told = [
        _sentence(form.format(_sentence(line) if listed else line))
        for form, line in zip(pattern, lines, strict=False)
    ]
    noted = [aside.format(things[(place + i) % len(things)]) for i, aside in enumerate(asides)]
    return ("\n" if listed else " ").join(filter(None, [intro, *told, *noted, closing]))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _exchange(
    prompt: tuple[Message, ...], answer: str, topic: Topic, cell: Cell, meta: dict[str, Any]
) -> Exchange:
    # Categories are of the policy's harmful half, as in all training files; a twin's stands in `meta.policy`.
    family = meta["family"]
    return Exchange(
        (*prompt, Message("assistant", answer)),
        float(topic.harmful),
        topic.category if topic.harmful else None,
        f"magic_{family}",
        {
            "book": None,
            "format": None,
            **meta,
            "twin": f"{family}-{cell.index}",
            "topic": topic.name,
            "policy": topic.category,
        },
    )


def write_parts(parts: dict[str, list[Exchange]], out: Path, results: Path = RESULTS) -> None:
    out.mkdir(parents=True, exist_ok=True)
    summary = {}
    for part, rows in parts.items():
        path = out / f"disguise_{part}.jsonl"
        write_exchanges(path, rows)
        counts = Counter(f"{row.source}/{'harmful' if row.label else 'harmless'}" for row in rows)
        disguises = Counter(str(row.meta["book"] or row.meta["format"] or "plain") for row in rows)
        summary[part] = {
            "rows": len(rows),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "sources": dict(sorted(counts.items())),
            "disguises": dict(sorted(disguises.items())),
            "topics": sorted({str(row.meta["topic"]) for row in rows}),
        }
        print(part, summary[part]["sources"], summary[part]["disguises"])
    results.mkdir(parents=True, exist_ok=True)
    content = {"command": "python -m recipes.reproduce_ccpp.disguise", "seed": SEED, "parts": summary}
    (results / "disguise.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
