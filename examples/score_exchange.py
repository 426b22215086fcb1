"""Score a finished exchange and print why it passes or is flagged.

python examples/score_exchange.py                  # a harmless exchange
python examples/score_exchange.py exchange.json    # {"messages": [{"role": "user", "content": "..."}, ...]}
"""

import argparse
import json
from pathlib import Path

import lockgate
from lockgate.guards import ExchangeScore, Guard

HARMLESS = [
    {"role": "user", "content": "Why does bread rise?"},
    {
        "role": "assistant",
        "content": "Yeast eats sugar in the dough and gives off gas. The gas makes bubbles.",
    },
]


def explain(guard: Guard, found: ExchangeScore) -> list[str]:
    """Explain the result in a few lines."""
    lines = ["flagged: " + (found.category or "harmful") if found.flagged else "passes"]
    lines.append(f"probe, highest score: {found.max_score:.2f}")
    if found.stage == 2:
        lines.append(f"second stage: asked, highest mixed score {found.mixed_max:.2f}")
    elif guard.record.cascade is not None:
        lines.append("second stage: not asked, the probe was never suspicious")
    if found.flag_token is not None:
        lines.append(f"flagged at token {found.flag_token}")
    evidence = guard.calibration
    if evidence is None:
        lines.append("uncalibrated: nobody knows how often this guard flags harmless exchanges")
    else:
        lines.append(f"threshold: {evidence.threshold:.2f}")
        lines.append(f"calibrated: at most {evidence.budget:.2%} of {evidence.n} benign prompts were flagged")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="JSON file with the exchange's messages")
    parser.add_argument("--guard", default="embedded", help="a guard's folder")
    options = parser.parse_args()
    messages = HARMLESS if options.file is None else json.loads(options.file.read_text())["messages"]
    guard = lockgate.load(options.guard)
    print("\n".join(explain(guard, guard.score(messages))))


if __name__ == "__main__":
    main()
