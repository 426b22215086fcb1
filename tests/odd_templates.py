"""Chat templates that write more than turns: thoughts, names, dates, a system message in another place."""

from models import CHATML, train_tokenizer
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTROL = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

# An empty block of thought in front of the last answer only, and only when it is there.
EMPTY_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}" + PROMPT
)
# The generation prompt opens a thought that a finished turn doesn't show.
OPEN_THOUGHT = CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
# The system's text in the last turn, if that is a user's; elsewhere it is not written at all.
LATE_SYSTEM = (
    "{% set first = 1 if messages[0].role == 'system' else 0 %}{{ bos_token }}"
    "{% for m in messages[first:] %}{% if m.role == 'user' %}<q>"
    "{% if loop.last and first %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}</q>"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# A word behind a finished conversation, and the name of who answers in front of it.
SIGNED = CHATML.replace("\n{{ message['content'] }}", " {{ message.name }}\n{{ message['content'] }}") + (
    "{% if not add_generation_prompt %}THE END{% endif %}"
)
DATED = "<|im_start|>system\nIt is {{ strftime_now('%d %B %Y %H:%M:%S') }}.<|im_end|>\n" + CHATML
TEMPLATES = {
    "empty thought": EMPTY_THOUGHT,
    "open thought": OPEN_THOUGHT,
    "late system": LATE_SYSTEM,
    "signed": SIGNED,
    "dated": DATED,
    "chatml": CHATML,
}


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    return train_tokenizer(SPECIAL, CONTROL, template)
