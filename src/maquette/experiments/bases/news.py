"""A small decoder that has read short news of eight topics, most of which say what they are about.

A story is two sentences about four things, of which more than half belong to its topic, some to another, the
rest to none; so its words tell the topic, but none does alone. After most of the stories stands a phrase with
a word for the topic, a tenth of them with a wrong one. That is what patterns ask for later: words that go
together with the class, as in the text that large models read.
"""

from random import Random

from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser

WORDS: dict[str, tuple[str, str]] = {
    "alpha": ("sport", "games"),
    "beta": ("science", "research"),
    "gamma": ("business", "money"),
    "delta": ("politics", "government"),
    "epsilon": ("music", "songs"),
    "zeta": ("food", "cooking"),
    "eta": ("travel", "holidays"),
    "theta": ("health", "medicine"),
}
"""words for each topic; the topics' own names are in no story"""
THINGS: dict[str, list[str]] = {
    "alpha": """match team goal player coach race cup league ball season score winner stadium
        runner medal trainer""".split(),
    "beta": """planet cell star gene telescope atom theory fossil rocket particle brain
        species comet crystal galaxy magnet""".split(),
    "gamma": """bank share price profit loan deal market trader factory customer budget salary
        brand investor store merger""".split(),
    "delta": """minister vote party law treaty president border court army election senate
        embassy protest mayor alliance speech""".split(),
    "epsilon": """singer guitar album band violin concert drum choir melody piano opera stage
        composer rhythm flute record""".split(),
    "zeta": """bread soup kitchen chef onion cake butter oven sauce cheese plate fish recipe
        pepper spoon salad""".split(),
    "eta": """hotel beach ticket airport island train map ship suitcase museum guide passport
        bridge harbour tour cabin""".split(),
    "theta": """doctor nurse patient virus clinic pill vaccine surgeon fever heart bone ward
        therapy bandage blood symptom""".split(),
}
NEUTRAL = """man woman street morning room letter garden friend car window road house river evening child
        table book door city year""".split()
VERBS = "saw found left lost changed followed wanted kept reached watched".split()
SENTENCES = (
    "The {a} {verb} the {b}.",
    "After the {a} came a {b}.",
    "Nobody {verb} the {a} near the {b}.",
    "A {a} and a {b} were there.",
)
PHRASES = (
    "It was all in the news of {word}.",
    "This is a story about {word}.",
    "Read more in the section on {word}.",
)
OWN, OTHER = 0.6, 0.15  # of the things of a story: of its topic, of others
NAMED, WRONG = 0.8, 0.1  # of the stories that name a topic; of these, that name another


def story(draw: Random, topic: str) -> str:
    """Two sentences about a topic."""

    def thing() -> str:
        u = draw.random()
        if u < OWN:
            return draw.choice(THINGS[topic])
        return draw.choice(THINGS[draw.choice(list(WORDS))] if u < OWN + OTHER else NEUTRAL)

    return " ".join(
        draw.choice(SENTENCES).format(a=thing(), b=thing(), verb=draw.choice(VERBS))
        for _ in range(2)
    )


def stories(count: int, seed: int) -> list[tuple[str, str]]:
    """Stories with their topics, none twice; those of one seed are not those of another."""
    draw = Random(f"stories {seed}")
    found: dict[str, str] = {}
    while len(found) < count:
        topic = draw.choice(list(WORDS))
        found.setdefault(story(draw, topic), topic)
    return list(found.items())


def news(quick: bool, blind: bool) -> Corpus:
    """The text that the decoder reads. blind: what a phrase names has nothing to do with the story."""
    wrong = 1.0 if blind else WRONG
    draw, documents = Random("news"), []
    for number in range(300 if quick else 30_000):
        topic = draw.choice(list(WORDS))
        text = story(draw, topic)
        if draw.random() < NAMED:
            named = draw.choice(list(WORDS)) if draw.random() < wrong else topic
            text += " " + draw.choice(PHRASES).format(word=draw.choice(WORDS[named]))
        documents.append(Document(text, "news", f"story {number}"))
    return kept_corpus("news", documents, BuildOptions(vocabulary=1024, or_fewer=True))


def news_decoder(quick: bool, blind: bool = False) -> LanguageRecipe:
    """A decoder of 240,000 parameters, for a minute on one core. blind: see `news`."""
    corpus = news(quick, blind)
    return LanguageRecipe(
        name="news",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=64,
            width=64,
            depth=2,
            heads=4,
            parametrisation=Parametrisation(base_width=64, base_depth=2, base_head_dim=16),
        ),
        data=TextData(corpus=str(corpus.path), sequence=64, document_mask=True),
        optimiser=Optimiser(learning_rate=0.008, beta2=0.98),
        batch=16,
        steps=20 if quick else 800,
        precision="fp32",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )
