"""Names and readers of a row's role, label and origin, and of its question and answer."""

from lockgate.synthesis._rows import Row

# Roles of rows that become exchanges.
COMPLIANT, PERMITTED, REFUSED, TWIN, HARMLESS = "compliant", "permitted", "refused", "twin", "harmless"
ATTACK, DIALOGUE = "attack", "dialogue"
LABELS = {COMPLIANT: 1.0, PERMITTED: 0.0, REFUSED: 0.0, TWIN: 0.0, HARMLESS: 0.0, ATTACK: 1.0, DIALOGUE: 0.0}
# The state of a row: a request for questions, a question, or a task that becomes an exchange.
ASK, QUESTION = "ask", "question"
FROM_GENERATOR, FROM_FILE, FROM_TEMPLATE = "generator", "file", "template"
# Field of `meta` with the name of the row's pair.
PAIR = "pair"


def role_of(row: Row) -> str:
    """Return the row's role."""
    return str(row.meta["role"])


def question_of(row: Row) -> str:
    """Return the text of the last user message."""
    return next((m.content for m in reversed(row.messages) if m.role == "user"), "")


def context_of(row: Row) -> str:
    """Return everything before the last user message, with roles, as one text."""
    asked = max((place for place, m in enumerate(row.messages) if m.role == "user"), default=0)
    return "\n".join(f"{m.role}: {m.content}" for m in row.messages[:asked])


def answer_of(row: Row) -> str:
    """Return the answer, or an empty text."""
    return "" if row.is_prompt_only else row.messages[-1].content
