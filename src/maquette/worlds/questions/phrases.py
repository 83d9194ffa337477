"""Short texts made of templates: whether a review is friendly, which of two years is earlier.

A review is held out by its thing, its adjective and its template; two years by the pair of them. Source of
the years: oLMpics (Talmor et al. 2020), which asks the like of ages.
"""

from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register

GOOD = """wonderful excellent great lovely brilliant superb charming delightful fine perfect amazing
fantastic pleasant enjoyable outstanding impressive""".split()  # fmt: skip
BAD = """terrible awful bad dreadful boring poor dull horrible weak disappointing useless annoying tedious
miserable unpleasant ridiculous""".split()  # fmt: skip
REVIEWED = "film book meal hotel concert play game lecture trip camera phone jacket".split()
TEMPLATES = (
    "The {thing} was {word}.",
    "What a {word} {thing}!",
    "I found the {thing} {word}.",
    "My friends told me that the {thing} was {word}, and it was.",
    "Never before have I seen such a {word} {thing}.",
    "All in all, a {word} {thing}.",
)
FIRST, LAST = 1700, 2019


def sentiment(draw: Random, side: Side) -> Asked:
    """A review with one adjective."""
    answer = draw.choice(("positive", "negative"))
    word = draw.choice(GOOD if answer == "positive" else BAD)
    thing, template = draw.choice(REVIEWED), draw.choice(TEMPLATES)
    text = template.format(thing=thing, word=word)
    return Asked(f"Review: {text}\nSentiment:", answer, text, ("positive", "negative"))


def years(draw: Random, side: Side) -> Asked:
    """Two years, of which one is earlier."""
    a, b = draw.sample(range(FIRST, LAST + 1), 2)
    answer = "before" if a < b else "after"
    return Asked(f"The year {a} came", f"{answer} the year {b}.", f"{min(a, b)} {max(a, b)}",
                 (f"before the year {b}.", f"after the year {b}."))  # fmt: skip


CALIBRATED = {"metric_list": [{"metric": "acc"}, {"metric": "acc_calibrated"}]}
register(
    QuestionWorld("sentiment", "whether a review is positive or negative", sentiment, CALIBRATED)
)
register(QuestionWorld("order_of_years", "which of two years is earlier", years))
