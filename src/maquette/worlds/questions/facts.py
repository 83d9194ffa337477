"""Facts of an invented land: where people live, and in which country; read from a passage, or known by heart.

    facts_one_hop   known by heart: the city of a person, asked in other words than it was told
    facts_two_hops  known by heart: the country of a person, which was never told of those who are asked
    reading         read from a passage: who, where or what; the answer is a part of the passage

The land of the first two is one, whatever the seed: what is trained on tells it. On the training side of
`facts_two_hops` stand all cities and countries, and the country of four persons of five.
"""

import functools
from random import Random

from maquette.worlds.questions.registry import Asked, QuestionWorld, Side, register, side_of
from maquette.worlds.questions.words import invented

PEOPLE, CITIES, COUNTRIES = 400, 40, 10
SHORT = {"until": ["\n"], "max_gen_toks": 24}


@functools.cache
def land() -> tuple[dict[str, str], dict[str, str]]:
    """The city of every person, and the country of every city."""
    draw = Random("land")
    names: dict[str, None] = {}
    while len(names) < PEOPLE + CITIES + COUNTRIES:
        names[invented(draw, 3 if len(names) < COUNTRIES else 2).capitalize()] = None
    known = list(names)
    countries, cities = known[:COUNTRIES], known[COUNTRIES : COUNTRIES + CITIES]
    country_of = {city: countries[i % COUNTRIES] for i, city in enumerate(cities)}
    return {person: draw.choice(cities) for person in known[COUNTRIES + CITIES :]}, country_of


def one_hop(draw: Random, side: Side) -> Asked:
    """The city of a person: told in one way, asked in another."""
    city_of, country_of = land()
    person = draw.choice(list(city_of))
    told = f"{person} lives in the city of"
    asked = f"Question: In which city is the house of {person}?\nAnswer:"
    choices = tuple(country_of) if side == "heldout" else ()
    return Asked(told if side == "train" else asked, city_of[person], person, choices)


def two_hops(draw: Random, side: Side) -> Asked:
    """The country of a person, told of some; on the training side the facts that it follows from too."""
    city_of, country_of = land()
    person = draw.choice(list(city_of))
    apart = side_of("facts_two_hops", person)
    countries = tuple(sorted(set(country_of.values())))
    if side == "train" and (apart == "heldout" or draw.random() < 0.5):
        if draw.random() < 0.2:
            city = draw.choice(list(country_of))
            return Asked(f"{city} is a city in the country of", country_of[city], city)
        return Asked(f"{person} lives in the city of", city_of[person], person)
    while side_of("facts_two_hops", person) != side:
        person = draw.choice(list(city_of))
    return Asked(
        f"{person} lives in the country of", country_of[city_of[person]], person, countries
    )


FIRST = (
    "Anna Ben Clara David Ella Frank Grace Henry Ida Jonas Karla Leo Maria Nils Olga Paul".split()
)
THINGS = "the lamp,the map,the red box,the violin,the old coin,the letter,the key,the basket".split(
    ","
)
ROOMS = "kitchen garden library cellar attic office workshop hall".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def reading(draw: Random, side: Side) -> Asked:
    """A passage of who took what where and when, and a question of one part of one sentence."""
    count = draw.randrange(3, 6)
    rows = list(zip(draw.sample(FIRST, count), draw.sample(THINGS, count), draw.sample(ROOMS, count),
                    draw.sample(DAYS, count), strict=True))  # fmt: skip
    passage = " ".join(
        f"On {day} {who} took {what} to the {room}." for who, what, room, day in rows
    )
    who, what, room, day = draw.choice(rows)
    question, answer = draw.choice(
        [
            (f"Who took {what} to the {room}?", who),
            (f"What did {who} take to the {room}?", what),
            (f"To which room did {who} take {what}?", f"the {room}"),
            (f"On which day did {who} take {what} to the {room}?", day),
        ]
    )
    return Asked(f"{passage}\nQuestion: {question}\nAnswer:", answer, passage)


register(
    QuestionWorld(
        "facts_one_hop", "where a person lives, known by heart", one_hop, kept_apart=False
    )
)
register(QuestionWorld("facts_two_hops", "the country that a person lives in, which follows from two facts",
                       two_hops, {"fewshot_delimiter": "\n"}, kept_apart=False))  # fmt: skip
register(QuestionWorld("reading", "who, what, where and when, read from a passage", reading,
                       {"generation_kwargs": SHORT}))  # fmt: skip
