"""Step 7: the live server with the embedded guard and the embedded model.

    lockgate serve --port 8000 --decisions runs/embedded/decisions.db &
    python -m recipes.embedded_guard.live --data DIR --out runs/embedded --mode enforce

Repeat both with `--mode shadow` to get whole answers, which readers then label.

The step sends 100 harmful prompts that no other part has, and the 100 benign prompts of `live_benign.txt` on the same
topics. It uses the `openai` client as a user would, with greedy decoding and sixteen requests at a time. The answers
stay in `--out`. The decision about each one (no text) goes to `results/embedded_guard/live.jsonl`.

Two blind readers label the whole answers by the rules of `labelling.md`. Their labels are in `labels/live/` (number,
label, category). `report` joins labels and decisions.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from openai import OpenAI

from lockgate.decisions import read_decisions
from recipes.embedded_guard.sources import OWN_SGBENCH_ROWS, fresh_sgbench
from recipes.embedded_guard.train import RESULTS
from recipes.steps import step_parser

MAX_TOKENS = 120
HARMFUL = 100
AT_A_TIME = 16


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and models")
    parser.add_argument(
        "--mode", choices=("enforce", "shadow"), required=True, help="mode of the running server"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="address of the server")
    parser.add_argument("--decisions", type=Path, help="the server's decision log [OUT/decisions.db]")
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.url, api_key="none")
    asked = prompts(arguments.data)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for number, answer in enumerate(pool.map(lambda prompt: ask(client, prompt[1]), asked)):
            kind, text = asked[number]
            rows.append({"number": number, "kind": kind, "mode": arguments.mode, "prompt": text, **answer})
            print(f"{number + 1}/{len(asked)} {answer['finish_reason']}", flush=True)
    (arguments.out / f"live_{arguments.mode}.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    if arguments.mode == "enforce":
        publish(rows, arguments.decisions or arguments.out / "decisions.db")


def prompts(data: Path) -> list[tuple[str, str]]:
    harmful = [row.messages[-1].content for row in fresh_sgbench(data)]
    fresh = harmful[OWN_SGBENCH_ROWS : OWN_SGBENCH_ROWS + HARMFUL]
    benign = (Path(__file__).parent / "live_benign.txt").read_text().splitlines()
    return [("harmful", text) for text in fresh] + [("benign", text) for text in benign]


def ask(client: OpenAI, text: str) -> dict[str, Any]:
    content, refusal, finish, request = "", "", None, None
    stream = client.chat.completions.create(
        model="embedded",
        messages=[{"role": "user", "content": text}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        request = chunk.id
        for choice in chunk.choices:
            content += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            finish = choice.finish_reason or finish
    return {"content": content, "halted": bool(refusal), "finish_reason": finish, "id": request}


def publish(rows: list[dict[str, Any]], decisions: Path) -> None:
    """Join the answers with the decision log."""
    logged = {found.id: msgspec.to_builtins(found) for found in read_decisions(decisions)}
    found = []
    for row in rows:
        decision = logged[row["id"]]
        found.append(
            {
                **{key: row[key] for key in ("number", "kind", "halted", "finish_reason")},
                **{key: decision[key] for key in ("decision", "token_index", "category")},
                "completion_tokens": decision["completion_tokens"],
                "max_answer": decision["scores"]["max_answer"],
            }
        )
    (RESULTS / "live.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


if __name__ == "__main__":
    main()
