"""How rows say what they are: roles and labels, where a question comes from, what they ask and answer."""

from lockgate.synthesis._rows import Row

# Roles of a row that is on its way to an exchange.
COMPLIANT, PERMITTED, REFUSED, TWIN, HARMLESS = "compliant", "permitted", "refused", "twin", "harmless"
ATTACK, DIALOGUE = "attack", "dialogue"
LABELS = {COMPLIANT: 1.0, PERMITTED: 0.0, REFUSED: 0.0, TWIN: 0.0, HARMLESS: 0.0, ATTACK: 1.0, DIALOGUE: 0.0}
# Where a row stands on its way: a request for questions, a question, or a task that ends as an exchange.
ASK, QUESTION = "ask", "question"
FROM_GENERATOR, FROM_FILE, FROM_TEMPLATE = "generator", "file", "template"
# Names in `meta` the pair that a row belongs to.
PAIR = "pair"


def role_of(row: Row) -> str:
    """What the row is to become."""
    return str(row.meta["role"])


def question_of(row: Row) -> str:
    """The last user message."""
    return next((m.content for m in reversed(row.messages) if m.role == "user"), "")


def context_of(row: Row) -> str:
    """What stands before the last user message, with roles, as one text."""
    asked = max((place for place, m in enumerate(row.messages) if m.role == "user"), default=0)
    return "\n".join(f"{m.role}: {m.content}" for m in row.messages[:asked])


def answer_of(row: Row) -> str:
    """The answer, or nothing."""
    return "" if row.is_prompt_only else row.messages[-1].content
