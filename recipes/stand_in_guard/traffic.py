"""Step 1: ordinary traffic from public sets, to calibrate the stand-in guard.

    python -m recipes.stand_in_guard.traffic --data DATA --output runs/policy/traffic.jsonl

DATA holds public sets in the exchange form, as the recipe of the embedded guard names them. The same files give the same
rows. Nothing in these sets is about the methods of magic beyond what ordinary users ask.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from lockgate.exchanges import Exchange, write_exchanges
from recipes.embedded_guard.sources import prompt_text, read, shuffled

# Rows of each set: mostly short questions, as people ask them, and some of every other kind.
ROWS = {
    "alpaca_52k": 1030,
    "alpaca_zh": 42,
    "bbh": 23,
    "coconot_pref": 36,
    "code_alpaca_2k": 38,
    "dolly_387": 22,
    "gpteacher": 118,
    "gsm8k": 47,
    "mbpp": 39,
    "medquad": 29,
    "oasst_sampled": 32,
    "sgd": 19,
    "taskmaster4": 25,
}


def draw(data: Path) -> list[Exchange]:
    """Return harmless or unlabelled exchanges that end with an answer, one for each prompt. Sets are their sources."""
    taken: list[Exchange] = []
    prompts: set[str] = set()
    for name, wanted in ROWS.items():
        found = 0
        for row in shuffled(list(read(name, data)), "stand-in"):
            prompt = prompt_text(row)
            if found == wanted or row.label or row.messages[-1].role != "assistant" or prompt in prompts:
                continue
            prompts.add(prompt)
            taken.append(replace(row, source=name))
            found += 1
    return shuffled(taken, "stand-in")


def main() -> None:
    """Write the file and say how many rows it has."""
    parser = argparse.ArgumentParser(
        description="Draw ordinary traffic for the stand-in guard from public sets."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = draw(options.data)
    write_exchanges(options.output, rows)
    print(f"{len(rows)} exchanges in {options.output}")


if __name__ == "__main__":
    main()
