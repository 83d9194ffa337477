"""GPT-3's word tasks in both directions: words are unscrambled better than they are scrambled.

    maquette reproduce gpt3_words         about 4 minutes on one core, 2 seeds

GPT-3 (Brown et al. 2020, section 3.9.2) is shown words with their letters in disorder and asked for the
words. Is that a rule of letters, which it could follow in either direction, or does it know the words?
Scaled down: decoders of 130,000 parameters on documents of 120 words of five letters. A document has a
permutation of its own, in its examples alone, and gives either the scrambled letters and then the word, or
the word and then the scrambled letters; every other document does the same with letters drawn at random
in the place of words (nonce words). A fifth of the 119 permutations are in no document: the questions are of
these, with eight examples shown before. The answer counts where greedy decoding writes all of it.

The control are nonce words, which nobody knows: there both directions must be alike, within 5 points. The
details also hold both directions after examples of another permutation. These are no control of this claim:
who knows the words needs no rule.

Expected: the thresholds; not measured yet. A trial with another seed and 1,400 steps unscrambled 97 % of the
words, after examples of another permutation too, and scrambled 0.5 %; of nonce words 0 and 0.5 %.
"""

import itertools
import string
from collections.abc import Sequence
from random import Random

import numpy as np

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import exact_matches, made_corpus, made_decoder
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.percent_right import bars, of_seeds, over_seeds, percent
from maquette.training.recipe import LanguageRecipe
from maquette.workshop.load import load
from maquette.worlds.questions.registry import Side, side_of
from maquette.worlds.questions.words import WORDS

LENGTH = 5
KNOWN = [word for word in WORDS if len(word) == LENGTH][:120]
RULES = [rule for rule in itertools.permutations(range(LENGTH)) if list(rule) != sorted(rule)]
SHOWN = 8
DOCUMENTS, STEPS = 15_000, 900  # 1.6 million tokens: once over the text
TOY_DOCUMENTS = 400
QUESTIONS = 400  # of each kind
ALIKE = 5.0
"""largest difference in points of the two directions of nonce words"""
SAME, OTHER = "the same rule", "another rule"
Rule = Sequence[int]


@claim(
    statement="words that are known are unscrambled better than scrambled, nonce words alike",
    source="Brown et al. 2020, section 3.9.2",
    metric="points of words right, unscrambled minus scrambled; 0 where nonce words differ by more than 5",
    at_least=20,
    control="the same of nonce words",
    minutes=6,
)
def unscramble(lab: Lab) -> Measurement:
    """Ask both directions of words and of nonce words, by rules that no document has."""
    count = 10 if lab.quick else QUESTIONS
    questions = {
        (f"{'un' * back}scramble {'nonce ' * nonce}words", OTHER if other else SAME):
            word_questions(back, nonce, other, count)
        for other in (False, True) for nonce in (False, True) for back in (True, False)
    }  # fmt: skip
    scores: dict[str, list[dict[str, float]]] = {SAME: [], OTHER: []}
    paths = lab.train_all([word_recipe(seed, lab.quick) for seed in range(lab.seeds)])
    for run in map(load, paths):
        right = {key: percent(exact_matches(run, rows)) for key, rows in questions.items()}
        for arm, seeds in scores.items():
            seeds.append({kind: value for (kind, of), value in right.items() if of == arm})
    gap, nonce_gap = (
        of_seeds(scores[SAME], f"unscramble {kind}") - of_seeds(scores[SAME], f"scramble {kind}")
        for kind in ("words", "nonce words")
    )
    return over_seeds(
        np.where(np.abs(nonce_gap) <= ALIKE, gap, 0.0),
        nonce_gap,
        {"right": scores},
        bars(scores, "Letters in disorder, both ways", "examples of"),
    )


def scrambled(word: str, rule: Rule) -> str:
    """The letters of a word in the order of a rule."""
    return "".join(word[i] for i in rule)


def rules(side: Side) -> list[Rule]:
    """The permutations of a side, a fifth of them held out."""
    return [rule for rule in RULES if side_of("scramble", str(rule)) == side]


def words(nonce: bool, count: int, draw: Random) -> list[str]:
    """So many words, or as many letters drawn at random."""
    if not nonce:
        return draw.sample(KNOWN, count)
    return ["".join(draw.choices(string.ascii_lowercase, k=LENGTH)) for _ in range(count)]


def example(word: str, rule: Rule, back: bool) -> tuple[str, str]:
    """What is given and what is wanted. back: whether the word is wanted."""
    other = scrambled(word, rule)
    return (f"{other}=", f"{word} ") if back else (f"{word}:", f"{other} ")


def documents(count: int) -> list[str]:
    """So many documents of nine examples each: both directions of words and of nonce words by turns."""
    draw, known = Random("words"), rules("train")
    texts = []
    for i in range(count):
        rule, back, nonce = draw.choice(known), i % 2 == 0, i % 4 >= 2
        pairs = [example(word, rule, back) for word in words(nonce, SHOWN + 1, draw)]
        texts.append("".join(given + wanted for given, wanted in pairs))
    return texts


def word_questions(back: bool, nonce: bool, other: bool, count: int) -> list[tuple[str, str]]:
    """So many questions after eight examples. other: whether the examples follow another rule."""
    draw, held_out = Random(f"asked {back} {nonce}"), rules("heldout")
    questions = []
    for _ in range(count):
        rule, wrong = draw.sample(held_out, 2)
        *shown, asked = words(nonce, SHOWN + 1, draw)
        before = "".join("".join(example(word, wrong if other else rule, back)) for word in shown)
        given, wanted = example(asked, rule, back)
        questions.append((before + given, wanted))
    return questions


def word_recipe(seed: int, quick: bool) -> LanguageRecipe:
    """The decoder on those documents."""
    texts = documents(TOY_DOCUMENTS if quick else DOCUMENTS)
    corpus = made_corpus("word-tasks", texts, BuildOptions(vocabulary=257))
    return made_decoder("word-tasks", corpus, seed, STEPS, quick)
