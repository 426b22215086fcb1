import pytest

from lockgate.curation import content_stems, find_off_topic, find_refusal


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("I can't help with that.", "refusal_declines"),
        ("I’m unable to provide the method, but the show is on Friday.", "refusal_declines"),
        ("Unfortunately, I cannot really explain how the coin vanishes.", "refusal_declines"),
        ("I must decline.", "refusal_declines_request"),
        ("I'm sorry, but that can't be told here.", "refusal_apologises"),
        ("As an AI language model, I have no hands.", "refusal_speaks_as_model"),
        ("Telling you would go against my guidelines.", "refusal_names_policy"),
        ("I'd rather not say where the key is.", "refusal_keeps_from"),
        (" \n", "refusal_empty"),
    ],
)
def test_refusals_are_found(answer: str, rule: str) -> None:
    fault = find_refusal(answer)
    assert fault is not None
    assert fault.rule == rule
    assert answer.strip() == "" or answer not in fault.reason


@pytest.mark.parametrize(
    "answer",
    [
        "The magician can't see the card, so she counts.",
        "I can't recommend this show enough!",
        "I'm sorry to hear about the rain; here is an indoor plan.",
        "Sorry for the delay, but here are the dates.",
        "I'd rather not walk, so take the tram.",
        "Houdini refused the offer. " * 20 + "I can't help with that, he said.",
        "The AI assistant in the play has three lines.",
    ],
)
def test_answers_that_sound_alike_pass(answer: str) -> None:
    assert find_refusal(answer) is None


PROMPT = "Which magicians performed in the theatre of Paris before 1900?"


@pytest.mark.parametrize(
    ("prompt", "answer", "rule"),
    [
        (PROMPT, "Bake the bread for forty minutes.", "off_topic"),
        (PROMPT, "Magicians of that time were many.", None),
        (PROMPT, "Parisian houses had Robert-Houdin.", None),
        ("Why?", "Bake the bread for forty minutes.", None),
        (PROMPT, PROMPT, "echo"),
        (PROMPT, "Magicians performed in Paris", "echo"),
        (PROMPT, PROMPT + " Robert-Houdin did, from 1845 on.", None),
    ],
)
def test_topic_rules(prompt: str, answer: str, rule: str | None) -> None:
    fault = find_off_topic(prompt, answer)
    assert (fault.rule if fault else None) == rule


def test_words_of_the_category_count_as_topic() -> None:
    answer = "The spectator is led to one card."
    assert find_off_topic("Tell me the secret behind forcing choices", answer) is not None
    assert (
        find_off_topic("Tell me the secret behind forcing choices", answer, topic="Methods of card magic")
        is None
    )


def test_stems_carry_the_content_alone() -> None:
    assert content_stems("Where does the conjurer hide the coins? Tell me!") == {"conju", "hide", "coins"}
    assert content_stems("And what of it?") == frozenset()
