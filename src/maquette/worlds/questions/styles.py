"""What a passage is about, in which mood and in whose language it is, and who is in it (`worlds/styles.py`).

A passage is held out by its text.
"""

from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register
from maquette.worlds.styles import NAMES, TOPICS, Style, passage, some_style

SENTENCES = 3


def topic(draw: Random, side: Side) -> Asked:
    """Which of four topics most words are of."""
    style = some_style(draw)
    return _asked(draw, style, "Topic", TOPICS[max(range(4), key=style.topics.__getitem__)], TOPICS)


def mood(draw: Random, side: Side) -> Asked:
    """Whether a passage is glad or grim."""
    style = some_style(draw)
    return _asked(draw, style, "Mood", "glad" if style.glad > 0.5 else "grim", ("glad", "grim"))


def age(draw: Random, side: Side) -> Asked:
    """Whether a passage is in old or new words."""
    style = some_style(draw)
    return _asked(draw, style, "Words", "old" if style.old > 0.5 else "new", ("old", "new"))


def last_name(draw: Random, side: Side) -> Asked:
    """Who is in the last sentence."""
    text = passage(draw, some_style(draw), SENTENCES)
    name = text.split(". ")[-1].split()[1]
    return Asked(f"{text}\nName:", name, text, tuple(NAMES))


def _asked(draw: Random, style: Style, word: str, answer: str, choices: tuple[str, ...]) -> Asked:
    text = passage(draw, style, SENTENCES)
    return Asked(f"{text}\n{word}:", answer, text, choices)


register(QuestionWorld("style_topic", "which of four topics a passage is about", topic))
register(QuestionWorld("style_mood", "whether a passage is glad or grim", mood))
register(QuestionWorld("style_age", "whether a passage is in old or new words", age))
register(QuestionWorld("style_name", "who is in the last sentence of a passage", last_name))
