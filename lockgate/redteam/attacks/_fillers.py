"""Words and passages without meaning, to put between the words that matter."""

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random

_STORY_TEXT = (
    "the morning was calm and grey and the boats lay still along the quay while an old dog slept by the "
    "baker's door nobody hurried because the ferry was late again and the gulls walked up and down as if "
    "they owned the place a woman in a green coat read the paper twice then folded it and looked at the sky "
    "two children counted the windows of the town hall and never got the same number the clock struck ten "
    "some rain fell and stopped a cart of apples went by and someone laughed about the price later the sun "
    "came out over the roofs and the whole street smelled of bread and wet stone"
)
_STORY = tuple(_STORY_TEXT.split())
_PLACES = (
    "the harbour",
    "the museum",
    "the library",
    "the allotments",
    "the station",
    "the mill",
    "the park",
)
_THINGS = ("a ladder", "the minutes", "a bell", "the fence", "a map", "the old pump", "a rowing boat")
_PASSAGES = (
    "At {place} the talk was about {thing}, and nobody could say who had paid for it.",
    "The report of {place} mentions {thing} on three pages and then never again.",
    "It was agreed that {thing} should stay where it is until {place} has been painted.",
    "A letter from {place} arrived on Thursday. It asks for {thing} and thanks everyone.",
    "Those who remember {place} as it was say that {thing} used to stand by the gate.",
    "The figures for {place} are in the annex; {thing} is listed under sundries.",
)
_ENDINGS = {
    "a": "all along the shore|at the water's edge", "b": "boats come home|by the old pier",
    "c": "clouds drift by|calm is the bay", "d": "down by the sea|dawn on the sand",
    "e": "evening falls|every wave sings", "f": "far out a sail|foam on the rocks",
    "g": "gulls cry above|grey is the tide", "h": "here we sit|high on the dune",
    "i": "in the wind|it rains a little", "j": "just a breeze|jetties creak",
    "k": "kites go up|keep the lamp lit", "l": "low is the sun|left on the beach",
    "m": "moon on the bay|mist all around", "n": "nets are drying|never a storm",
    "o": "over the dunes|on the cold stones", "p": "pebbles and shells|past the lighthouse",
    "q": "quiet now|quite still the bay", "r": "ropes and sails|rain on the roof",
    "s": "salt in the air|sand in our shoes", "t": "tide comes in|two small boats",
    "u": "under the stars|up on the cliff", "v": "voices far off|very slow waves",
    "w": "waves roll on|wind from the west", "x": "xylophone of rain|x marks a chart",
    "y": "yellow the sand|yachts at anchor", "z": "zephyrs at noon|zigzag of gulls",
}  # fmt: skip
LETTER_LINES = {letter: tuple(endings.split("|")) for letter, endings in _ENDINGS.items()}


def filler_words(start: int) -> Iterator[str]:
    """Yield words of a story without end, from a place in it."""
    return islice(cycle(_STORY), start % len(_STORY), None)


def passages(rng: Random, characters: int) -> list[str]:
    """Return sentences that have at least so many characters together."""
    lines: list[str] = []
    while sum(map(len, lines)) < characters:
        lines.append(rng.choice(_PASSAGES).format(place=rng.choice(_PLACES), thing=rng.choice(_THINGS)))
    return [line[:1].upper() + line[1:] for line in lines]
