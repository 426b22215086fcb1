"""Step 1: the backbone answers prompts, so that training includes text that the backbone itself would write.

    python -m recipes.embedded_guard.generate --data DIR --out runs/embedded

Writes `answers_NAME.jsonl` for each list of prompts. A complete list is not made again; an interrupted one is
continued. Readers add the labels later.
"""

import hashlib
import json
from pathlib import Path

import torch

from lockgate.backbones import Backbone
from lockgate.backbones.generation import generate_answers
from lockgate.exchanges import Exchange, Message
from recipes.embedded_guard.sources import PROMPT_LISTS, prompts_of
from recipes.steps import step_parser

MAX_TOKENS = 80
GROUP = 96


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of threads of PyTorch"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    backbone = Backbone.load("embedded")
    for name in PROMPT_LISTS:
        answer_list(backbone, name, prompts_of(name, arguments.data), arguments.out / f"answers_{name}.jsonl")


def answer_list(backbone: Backbone, name: str, prompts: list[Exchange], target: Path) -> None:
    done = sum(1 for _ in target.open(encoding="utf-8")) if target.exists() else 0
    while done < len(prompts):
        group = prompts[done : done + GROUP]
        answers = dict(
            generate_answers(
                backbone, [row.messages for row in group], max_tokens=MAX_TOKENS, temperature=0.7
            )
        )
        with target.open("a", encoding="utf-8") as sink:
            for number, row in enumerate(group):
                messages = (*row.messages, Message("assistant", answers[number] or "."))
                made = Exchange(messages, label=None, category=row.category, source=name, meta=dict(row.meta))
                sink.write(json.dumps(made.to_dict(), ensure_ascii=False) + "\n")
        done += len(group)
        print(
            f"{name}: {done}/{len(prompts)} {hashlib.sha256(target.read_bytes()).hexdigest()[:8]}", flush=True
        )


if __name__ == "__main__":
    main()
