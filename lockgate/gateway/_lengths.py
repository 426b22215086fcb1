"""How long prompts and answers are in the guard's tokens, and the errors for those that are too long."""

from collections.abc import Sequence

from lockgate.backbones import Backbone, RenderedChat
from lockgate.errors import BackboneError
from lockgate.exchanges import Message
from lockgate.gateway._errors import ApiError


def render_prompt(backbone: Backbone, messages: Sequence[Message]) -> RenderedChat:
    """Tokenise a prompt. Raises ApiError (400): its roles are out of order."""
    try:
        return backbone.render(messages, add_generation_prompt=True)
    except BackboneError as error:
        raise ApiError(400, str(error), param="messages") from error


def count_tokens(backbone: Backbone, text: str) -> int:
    """Count the tokens of a whole answer."""
    tokeniser = backbone.tokenise_answer()
    tokeniser.push(text)
    tokeniser.end()
    tokens = 0
    while tokeniser.unsettled:
        tokens += len(tokeniser.settle())
    return tokens


def too_long_to_read(longest: int) -> ApiError:
    """Return the error for text that is longer than what the guard reads for another model."""
    return _too_long(f"The messages are longer than the {longest} tokens that the guard reads. Shorten them.")


def too_long(context: int, tokens: str) -> ApiError:
    """Return the error for a prompt that the model's context can't hold."""
    return _too_long(
        f"This model's context holds {context} tokens, but the messages come to {tokens}. Shorten them."
    )


def _too_long(message: str) -> ApiError:
    return ApiError(400, message, param="messages", code="context_length_exceeded")
