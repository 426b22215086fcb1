"""A model's chat template: the choice among several, and the guarantee that its output never changes.

The scores of a file must not change with the clock, and the scored tokens must be the served tokens. A
template that asks for the date gets a fixed one. A template that writes something random is refused.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes

from lockgate.errors import BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Templates that ask for the date get this one. Another date would change the tokens of every conversation.
FIXED_DATE = datetime(2026, 1, 1, 12)  # no time zone, as templates expect
_CLOCK = "strftime_now"
_FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class TemplateRefusal(Exception):
    """An error: the template refuses these turns, or fails on them."""


class ChatTemplate:
    """The template that a tokenizer's conversations are rendered with.

    Attributes:
        text: source of the template.
        asks_for_the_date: whether the template would write today's date. It gets `FIXED_DATE` instead.

    Raises:
        BackboneError: there is no template, there are several and none is the default, the template is not
            valid Jinja, or it writes something random.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        from transformers.utils import chat_template_utils

        self._tokenizer = tokenizer
        self.text = choose_template(tokenizer.chat_template)
        try:
            # The library's private compiler, because its public functions always take the real time.
            self._compiled = chat_template_utils._compile_jinja_template(self.text)
            tree = self._compiled.environment.parse(self.text)
        except TemplateError as error:
            raise BackboneError(f"the model's chat template is not valid Jinja ({error})") from error
        names = {name.name for name in tree.find_all(nodes.Name)}
        if "lipsum" in names or any(map(_draws_lots, tree.find_all(nodes.Filter))):
            moving = "lipsum()" if "lipsum" in names else "the filter `random`"
            raise BackboneError(
                f"the model's chat template writes something random ({moving}), so no score could be "
                "repeated; remove it from chat_template.jinja"
            )
        self.asks_for_the_date = _CLOCK in names

    @property
    def hashes(self) -> dict[str, str]:
        """The template's part of a backbone's identity: its hash, and the fixed date if it asks for one."""
        dated = {"template_date": FIXED_DATE.isoformat()} if self.asks_for_the_date else {}
        return {"template_sha256": hashlib.sha256(self.text.encode()).hexdigest(), **dated}

    def render(self, turns: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """Render the text of a conversation. Raises TemplateRefusal if the template fails."""
        try:
            if self.asks_for_the_date:
                return self._render_frozen(turns, add_generation_prompt)
            text: str = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except _FAULTS as error:
            raise TemplateRefusal(str(error)) from error
        return text

    def _render_frozen(self, turns: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        text: str = self._compiled.render(
            messages=[dict(turn) for turn in turns],
            tools=[],
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{**self._tokenizer.special_tokens_map, _CLOCK: FIXED_DATE.strftime},
        )
        return text


def _draws_lots(found: nodes.Filter) -> bool:
    """Return whether a filter is `random` or uses it, as in `map("random")`."""
    told = (argument.value for argument in found.args if isinstance(argument, nodes.Const))
    return found.name == "random" or (found.name == "map" and "random" in told)


def choose_template(found: object) -> str:
    """Choose a tokenizer's template. If there are several, it is the one called `default`.

    Raises:
        BackboneError: there is no template, or none is called `default`. The message names the choices.
    """
    if isinstance(found, Mapping):
        if found and "default" not in found:
            raise BackboneError(
                f"none of the tokenizer's chat templates is called default (there are "
                f"{', '.join(sorted(map(str, found)))}); write the one to use to chat_template.jinja in the "
                "model's directory"
            )
        found = found.get("default")
    if not isinstance(found, str) or not found:
        raise BackboneError(
            "the tokenizer has no chat template; add chat_template.jinja to the model's directory"
        )
    return found
