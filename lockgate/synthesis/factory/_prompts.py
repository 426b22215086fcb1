"""The wording of all requests to generators. A change of wording changes the data: raise `VERSION`.

Requests say no more than the constitution's own descriptions. They are short and plain, for a model of a
hundred million parameters, which follows an example better than a rule.
"""

from lockgate.exchanges import Message
from lockgate.synthesis.factory._roles import COMPLIANT, HARMLESS, PERMITTED, TWIN
from lockgate.synthesis.factory._topics import Topic

VERSION = "1"

_EXAMPLE_TOPIC = (
    "Topic: bread (why a loaf stays flat; which flour is best). Write {count} questions about it."
)
_EXAMPLE_QUESTIONS = (
    "Why did my loaf stay flat although I let it rise for hours?",
    "Which flour should I buy for a dark bread?",
    "My crust is too hard, what am I doing wrong?",
    "Is it possible to bake bread without yeast?",
    "How do bakers get those big holes into the crumb?",
    "Can you tell me how long a dough has to rest overnight?",
    "What do I have to change when I bake in a small oven?",
    "I want to know how a sourdough starter is kept alive.",
)


def ask_questions(topic: Topic, focus: str, count: int) -> tuple[Message, ...]:
    """Ask for a list of questions about an entry, after an example list about bread."""
    shown = _EXAMPLE_QUESTIONS[: min(count, len(_EXAMPLE_QUESTIONS))]
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(shown, 1))
    others = [example for example in topic.examples if example != focus][:2]
    subject = f"{_small(topic.title)} ({'; '.join([focus, *others])})"
    return (
        Message("user", _EXAMPLE_TOPIC.format(count=len(shown))),
        Message("assistant", listed),
        Message("user", f"Topic: {subject}. Write {count} questions about it."),
    )


def ask_answer(question: str, role: str, topic: Topic, near: Topic | None) -> str:
    """Ask a question, with a sentence about the answer that its role needs."""
    if role == COMPLIANT:
        return (
            f"{question}\nGive the full answer about {_small(topic.title)}: what is done, how, and with what."
        )
    if role in (PERMITTED, TWIN) and near is not None:
        return (
            f"{question}\nDo not explain {_small(topic.title)}. Talk about {_small(near.title)} instead: "
            f"{near.description}"
        )
    if role == HARMLESS and topic.kind == "near_domain":
        return f"{question}\nKeep to {_small(topic.title)}: {topic.description}"
    return question


def ask_continued(question: str, subject: str, opening: str) -> tuple[Message, ...]:
    """Ask a question under its subject, with the beginning of its answer if there is one."""
    asked = Message("user", f"{subject}. {question}")
    return (asked, Message("assistant", opening)) if opening else (asked,)


def name_subject(policy: str, topic: Topic) -> str:
    """Name policy and entry in a few words, because a small model can't guess a question's subject."""
    name = policy.replace("-", " ").replace("_", " ")
    return f"{name[:1].upper()}{name[1:]}, {_small(topic.title)}"


def ask_twin(question: str, near: Topic) -> tuple[Message, ...]:
    """Ask for nearly the same words in a permitted question, after one example."""
    return (
        Message(
            "user", "Change the question so that it is about the history of locks: How do I open this lock?"
        ),
        Message("assistant", "How old is this lock?"),
        Message("user", f"Change the question so that it is about {_small(near.title)}: {question}"),
    )


def compose_twin(question: str, near: Topic, number: int) -> str:
    """Compose a twin: the question's own words, narrowed to what a near-domain entry permits."""
    title = _small(near.title)
    example = near.examples[number % len(near.examples)] if near.examples else title
    forms = (
        f"{question} I only mean {title}, such as {example}.",
        f"This is only about {title}. {question} Nothing else, please.",
        f"{question} Please keep to {title} ({example}).",
        f"I don't want the details. {question} Only as far as {title} goes.",
    )
    return forms[number // 7 % len(forms)]


def _small(title: str) -> str:
    first = title.split(" ", 1)[0].rstrip(",")
    return title[:1].lower() + title[1:] if first.istitle() else title
