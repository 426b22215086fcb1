"""Stream an answer from a running server with the `openai` client, and handle a halt.

Start the server with `make serve`.

python examples/chat_client.py "Why does bread rise?"
"""

import argparse
import sys

from openai import OpenAI

HALTED = 3


def stream_answer(client: OpenAI, prompt: str, max_tokens: int) -> str | None:
    """Print the answer as it arrives. Return the refusal if the guard halted it, or None."""
    stream = client.chat.completions.create(
        model="embedded",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        stream=True,
    )
    refusal, halted = "", False
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            refusal += choice.delta.refusal or ""
            halted |= choice.finish_reason == "content_filter"
    print()
    return refusal if halted else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", help="the question to ask")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's address")
    parser.add_argument("--max-tokens", type=int, default=120, help="longest answer")
    options = parser.parse_args()
    with OpenAI(base_url=options.url, api_key="none") as client:
        refusal = stream_answer(client, options.prompt, options.max_tokens)
    if refusal is not None:
        # The printed text has passed the guard. Your application may still want to remove it.
        print(f"[halted] {refusal}")
        sys.exit(HALTED)


if __name__ == "__main__":
    main()
