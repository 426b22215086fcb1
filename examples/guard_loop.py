"""Guard your own generate loop. A transformers model writes, and the script shows only released tokens.

python examples/guard_loop.py "Why does bread rise?"
"""

import argparse
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lockgate
from lockgate.backbones import embedded_path


class Writer:
    """Your own model. It must use the tokenizer of the guard's backbone."""

    def __init__(self, path: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()

    @torch.inference_mode()
    def write(self, messages: list[dict[str, str]], max_tokens: int) -> Iterator[int]:
        """Yield the token ids of a greedy answer."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        tokens, cache = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids, None
        for _ in range(max_tokens):
            step = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
            tokens, cache = step.logits[:, -1:].argmax(-1), step.past_key_values
            if tokens.item() == self.tokenizer.eos_token_id:
                return
            yield int(tokens.item())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt", help="the question to ask")
    parser.add_argument("--guard", default="embedded", help="a guard's folder")
    parser.add_argument("--max-tokens", type=int, default=80, help="longest answer")
    options = parser.parse_args()
    guard, writer = lockgate.load(options.guard), Writer(str(embedded_path()))
    messages = [{"role": "user", "content": options.prompt}]
    answer, shown = list[int](), ""
    with guard.stream(messages, max_tokens=options.max_tokens) as stream:
        for token in writer.write(messages, options.max_tokens):
            answer.append(token)
            if stream.push(token).flagged:
                break
            # Suspicious tokens wait for the second stage. An incomplete character waits for its next token.
            before, shown = shown, writer.tokenizer.decode(answer[: stream.released]).rstrip("\ufffd")
            print(shown[len(before) :], end="", flush=True)
        verdict = stream.finish()
    halted = f"\n[halted: {verdict.category}]"
    print(halted if verdict.flagged else writer.tokenizer.decode(answer)[len(shown) :])


if __name__ == "__main__":
    main()
