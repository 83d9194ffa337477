"""What a base model learns to answer from: questions of worlds, pairs of its documents, words about itself.

    worlds      sums, reading, facts, reviews, years, tasks on words and numbers, each in several phrasings
    pairs       cut from the documents that the base was trained on (corpus/examples/pairs.py)
    small talk  greetings, and what the run's own files say: its size, what it was trained on
    replay      stretches of the base's training text, learned whole, so that it is not forgotten

Half of the tokens are of worlds, a quarter of pairs, a quarter replayed; small talk is a few lines, alone and
after each other, and some questions come again after one of them. What is held out of worlds and documents
is in none of it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from maquette.corpus.examples.example import Example
from maquette.corpus.examples.pairs import corpus_pairs
from maquette.corpus.text.store import Corpus
from maquette.training.recipe import language
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import kept_corpus
from maquette.worlds.questions.registry import Asked, Side, question_world

WORLD_TOKENS, PAIR_TOKENS = 48, 80  # tokens of an example, about
REPLAYED = 240  # tokens of a stretch of the training text
MOST_PAIRS = 20_000
LATER = 8  # one question of so many comes again, after a line of small talk
WATCHED = 8  # held-out questions of each world, for the loss while training
LABELS = re.compile(r"^(?:Q|Review|Question): |\n(?:A|Sentiment|Answer|Output):$")
INNER = re.compile(r"\n(?:Question|Input): ")


@dataclass(frozen=True)
class Instructions:
    """How the questions of a world are asked.

    phrasings: texts with {}, where the question stands; the first alone on the held-out side, unless
    `heldout` gives another.
    """

    group: str
    world: str
    phrasings: tuple[str, ...] = ("{}",)
    heldout: str = ""
    reads: Callable[[Asked], tuple[str, str]] = lambda asked: (bare(asked.question), asked.answer)

    def examples(self, count: int, side: Side, seed: int = 0) -> Iterator[Example]:
        """The first `count` questions of a side as instructions."""
        draw = Random(f"{self.world} {seed}")
        for asked in question_world(self.world).stream(count, seed, side):
            question, answer = self.reads(asked)
            phrasing = draw.choice(self.phrasings)
            if side == "heldout":
                phrasing = self.heldout or self.phrasings[0]
            yield Example(
                phrasing.format(question), answer, source=self.group, heldout=side == "heldout"
            )


def bare(question: str) -> str:
    """A question without the labels that a task puts around it."""
    return INNER.sub("\n", LABELS.sub("", question))


def person(asked: Asked) -> tuple[str, str]:
    """The person of a fact on the training side, the whole question on the other."""
    return bare(asked.question).removesuffix(" lives in the city of"), asked.answer


def years(asked: Asked) -> tuple[str, str]:
    """Two years, and which way round they are."""
    word, _, other = asked.answer.rstrip(".").partition(" the year ")
    first = asked.question.removeprefix("The year ").removesuffix(" came")
    return f"{first} come before or after the year {other}", word


SUMS = ("{}", "Work this out. {}", "{} Answer with a number.", "Can you tell me: {}")
WORLDS = (
    Instructions("arithmetic", "arithmetic_2da", SUMS),
    Instructions("arithmetic", "arithmetic_2ds", SUMS),
    Instructions("words and numbers", "instructions"),
    Instructions("reading", "reading", ("{}", "Read this and answer. {}")),
    Instructions("facts", "facts_one_hop",
                 ("Where does {} live?", "In which city does {} live?", "What is the city of {}?"),
                 "{}", person),
    Instructions("sentiment", "sentiment",
                 ("Is this review positive or negative? {}", "Positive or negative? {}",
                  "{}\nIs the writer positive or negative?")),
    Instructions("years", "order_of_years",
                 ("Did the year {}?", "Please say: did the year {}?"), "", years),
)  # fmt: skip


def small_talk(run: RunDirectory) -> list[Example]:
    """Greetings, and questions about the model that its own files answer."""
    recipe, corpus = language(run.recipe()), kept_corpus(run)["table"]
    *first, last = corpus["components"]
    parts = f"{', '.join(first)} and {last}" if first else last
    size = f"{recipe.model.parameters() / 1e6:.1f} million"
    who = f"I am a small language model with {size} parameters, made with Maquette."
    read = f"I was trained on {corpus['bytes'] / 1e6:.3g} megabytes of {parts}."
    can = "I can do sums, read a short text, do things to words, and talk of what I have read."
    talk = (
        ("Hello|Hello!|Hi|Hi there!|Good morning|Hey", "Hello! What would you like to know?"),
        (
            "Who are you?|What are you?|Tell me about yourself.|What is your name?|Are you human?",
            who,
        ),
        ("How large are you?|How many parameters do you have?", f"I have {size} parameters."),
        ("What were you trained on?|What have you read?|What do you know?", read),
        ("What can you do?|How can you help me?|Help|What should I ask?", can),
        ("How are you?|How are you today?", "I am well, thank you."),
        ("Thank you.|Thanks|Thanks!|Thank you!|Great, thanks.", "You are welcome."),
        ("Goodbye|Bye|Bye!|See you.", "Goodbye!"),
    )
    return [
        Example(prompt, answer, source="small talk", heldout=False)
        for prompts, answer in talk
        for prompt in prompts.split("|")
    ]


def after(talk: Sequence[Example], examples: Sequence[Example], seed: int = 0) -> list[Example]:
    """The examples in the midst of a conversation, each after one of the small talk."""
    draw = Random(seed)
    before = [draw.choice(talk) for _ in examples]
    return [
        replace(one, history=((first.prompt, first.answer),))
        for one, first in zip(examples, before, strict=True)
        if one.answer != first.answer
    ]


def replayed(corpus: Corpus, count: int, seed: int = 0) -> Iterator[Example]:
    """Stretches of the training text, as examples without a prompt."""
    draw, stream = Random(seed), corpus.train
    length = min(REPLAYED, len(stream))
    for _ in range(count):
        start = draw.randrange(len(stream) - length + 1)
        tokens = stream.read(start, length)
        tokens = tokens[tokens != corpus.eos_token_id]
        text = corpus.tokenizer.decode_bytes(tokens).decode("utf-8", "ignore")
        if text.strip():
            yield Example("", text, source="replay", heldout=False)


def chat_examples(run: RunDirectory, corpus: Corpus, tokens: int) -> list[Example]:
    """Examples of about so many tokens for the base `run`, whose text is `corpus`; see the file's head."""
    worlds = max(20, tokens // 2 // WORLD_TOKENS // len(WORLDS))
    pairs = min(MOST_PAIRS, max(60, tokens // 4 // PAIR_TOKENS))
    sides: tuple[tuple[Side, int], ...] = (("train", worlds), ("heldout", WATCHED))
    examples = [one for w in WORLDS for side, n in sides for one in w.examples(n, side)]
    talk = small_talk(run)
    said = (talk * (1 + tokens // 20 // WORLD_TOKENS // len(talk)))[: 20 * len(talk)]
    examples += after(talk, [one for one in examples[::LATER] if not one.heldout], seed=1)
    examples += talk + after(talk, said)
    examples += corpus_pairs(corpus, pairs)
    examples += replayed(corpus, max(10, tokens // 4 // REPLAYED))
    return examples


def heldout_questions(count: int) -> dict[str, list[Example]]:
    """So many held-out questions of every world, by group."""
    groups: dict[str, list[Example]] = {}
    for world in WORLDS:
        groups.setdefault(world.group, []).extend(world.examples(count, "heldout"))
    return groups


def heldout_pairs(examples: Sequence[Example], count: int, kind: str = "") -> list[Example]:
    """At most so many of the pairs of a kind ("": of all), spread evenly."""
    pairs = [one for one in examples if f"#{kind}" in one.source]
    return pairs[:: max(1, len(pairs) // count)][:count]
