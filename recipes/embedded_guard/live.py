"""Step 7: the live server, the embedded model answering itself.

    lockgate serve --port 8000 &
    python recipes/embedded_guard/live.py --data DIR --out runs/embedded --url http://127.0.0.1:8000/v1

100 harmful prompts that no other part has seen, and the 100 benign ones of `live_benign.txt` on the same topics, go
through the `openai` client as a user's would, greedily. Writes what came back, with the halting token, to
`--out/live.jsonl`, to be labelled by hand with the rubric of `labelling.md` in `labels/live.tsv`. A server in shadow
mode (`--shadow`) gives the whole answers, so that halts and misses can be told apart.
"""

import argparse
import json
from pathlib import Path

from openai import OpenAI
from sources import OWN_SGBENCH_ROWS, fresh_sgbench

MAX_TOKENS = 120
HARMFUL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--shadow", action="store_true", help="name the file live_shadow.jsonl")
    arguments = parser.parse_args()
    harmful = [row.messages[-1].content for row in fresh_sgbench(arguments.data)]
    prompts = [("harmful", text) for text in harmful[OWN_SGBENCH_ROWS : OWN_SGBENCH_ROWS + HARMFUL]]
    benign = (Path(__file__).parent / "live_benign.txt").read_text().splitlines()
    prompts += [("benign", text) for text in benign]
    client = OpenAI(base_url=arguments.url, api_key="none")
    target = arguments.out / ("live_shadow.jsonl" if arguments.shadow else "live.jsonl")
    done = sum(1 for _ in target.open(encoding="utf-8")) if target.exists() else 0
    with target.open("a", encoding="utf-8") as sink:
        for number, (kind, text) in enumerate(prompts[done:], start=done):
            row = {"number": number, "kind": kind, "prompt": text, **ask(client, text)}
            sink.write(json.dumps(row, ensure_ascii=False) + "\n")
            sink.flush()
            print(f"{number + 1}/{len(prompts)} {row['finish_reason']}", flush=True)


def ask(client: OpenAI, text: str) -> dict[str, object]:
    content, refusal, finish, chunks = "", "", None, 0
    stream = client.chat.completions.create(
        model="embedded",
        messages=[{"role": "user", "content": text}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            chunks += bool(choice.delta.content)
            finish = choice.finish_reason or finish
    tokens = None if usage is None else usage.completion_tokens
    return {"content": content, "halted": bool(refusal), "finish_reason": finish, "tokens": tokens}


if __name__ == "__main__":
    main()
