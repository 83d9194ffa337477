"""The mixture: its table as the Pile has it, fractional epochs, weights by age, errors that help."""

import datetime
import json
import random
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.text.mixture import (
    MOST,
    Component,
    ComponentSize,
    Mixture,
    age_weight,
    age_weights,
    date_from,
    days,
    load_mixture,
    mixture_from,
    plan,
    repeats,
    table,
    tokens_from,
)

TABLE = """
tokens: 300M
seed: 3
today: 2026-01-01
components:
  - name: code
    sources: [~/src, data/x.jsonl.zst]
    weight: 2
    licence: MIT
    date: created
    half_life: 5y
    clean: [quality, personal]
  - name: prose
    sources: [books]
    weight: 1
"""


def one(name: str, **fields) -> Component:
    return Component(name=name, sources=("x",), **fields)


def test_a_table_is_read_with_all_its_fields(tmp_path):
    (tmp_path / "m.yaml").write_text(TABLE, encoding="utf-8")
    mixture = load_mixture(tmp_path / "m.yaml")
    assert mixture.tokens == 300_000_000
    assert mixture.seed == 3
    assert mixture.today == datetime.date(2026, 1, 1)
    code, prose = mixture.components
    assert code.sources == ("~/src", "data/x.jsonl.zst")
    assert (code.weight, code.licence, code.date) == (2, "MIT", "created")
    assert code.half_life_days == pytest.approx(5 * 365.2425)
    assert code.clean == ("quality", "personal")
    assert prose.half_life_days is None
    again = mixture_from(json.loads(json.dumps(mixture.to_dict())), "json")
    assert again == mixture


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("tokens: many", ["tokens is 'many'", "300M"]),
        ("tokns: 3", ["unknown field tokns", "tokens"]),
        ("components: []", ["no components"]),
        ("components: [{name: a}]", ["components.0.sources is missing"]),
        ("components: [{name: a, sources: []}]", ["component a has no sources"]),
        ("components: [{name: a, sources: [x], wieght: 1}]", ["components.0.wieght", "'weight'"]),
        ("components: [{name: a, sources: [x], weight: 1, epochs: 1}]", ["one of the two"]),
        ("components: [{name: a, sources: [x], epochs: 0}]", ["component a", "remove it"]),
        ("components: [{name: a, sources: [x], epochs: -1}]", ["epochs is -1"]),
        ("components: [{name: a, sources: [x], half_life: 5m}]", ["half_life is '5m'", "5y"]),
        ("components: [{name: a, sources: [x], clean: [qualty]}]", ["qualty", "'quality'"]),
        ("components: [{name: a, sources: [x]}, {name: a, sources: [y]}]", ["listed twice"]),
        (
            "components: [{name: a, sources: [x], weight: 1}, {name: b, sources: [y]}]",
            ["a has a weight and b has none"],
        ),
        ("today: soon", ["today is 'soon'"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(change, words, tmp_path):
    content = {"components": [{"name": "x", "sources": ["x"]}]} | yaml.safe_load(change)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(WrongUse) as caught:
        load_mixture(tmp_path / "m.yaml")
    said = str(caught.value)
    assert "m.yaml" in said
    assert "\n" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize("content", ["- a\n", "a: [", "\xff", ""])
def test_what_is_no_table_is_said_to_be_none(content, tmp_path):
    (tmp_path / "m.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(WrongUse, match="m.yaml"):
        load_mixture(tmp_path / "m.yaml")
    with pytest.raises(WrongUse, match="does not exist"):
        load_mixture(tmp_path / "other.yaml")


def test_numbers_of_tokens_and_half_lives():
    texts = ("300M", "1.5B", "2k", 7)
    assert [tokens_from(t) for t in texts] == [300_000_000, 1_500_000_000, 2000, 7]
    for wrong in ("", "M", "-3", "1e6"):
        with pytest.raises(WrongUse):
            tokens_from(wrong)
    assert [days(t) for t in ("90d", "2 w")] == [90, 14]
    for wrong in ("5", "y", "0d", "-1y"):
        with pytest.raises(WrongUse):
            days(wrong)


SIZES = {
    "a": ComponentSize(raw_bytes=1000, documents=10, tokens=250),
    "b": ComponentSize(raw_bytes=4000, documents=8, tokens=500),
}


def test_the_table_has_the_columns_of_the_piles():
    """Gao et al. 2020, table 1: effective size = raw size x epochs, weight = its share."""
    mixture = Mixture(components=(one("a", epochs=2.0), one("b")), tokens=2000)
    a, b = plan(mixture, SIZES)
    assert (a.effective_bytes, b.effective_bytes) == (2000, 4000)
    assert (a.weight, b.weight) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (a.mean_document, b.mean_document) == (100, 500)
    # 2 x 250 + 500 = 1,000 tokens are written, so 2,000 read everything twice
    assert (a.epochs_at_budget, b.epochs_at_budget) == (4, 2)
    assert plan(mixture, SIZES, tokens=1000)[0].epochs_at_budget == 2
    assert plan(replace(mixture, tokens=None), SIZES)[0].epochs_at_budget is None


def test_weights_are_shares_and_nothing_is_left_out():
    mixture = Mixture(components=(one("a", weight=1.0), one("b", weight=1.0)))
    a, b = plan(mixture, SIZES)
    assert a.weight == b.weight == 0.5
    assert (a.epochs, b.epochs) == (4, 1)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100), st.integers(1, 10**9), st.integers(1, 10**6)),
        min_size=1,
        max_size=6,
    )
)
def test_the_weights_of_the_table_are_those_asked_for(parts):
    mixture = Mixture(
        components=tuple(one(str(i), weight=w) for i, (w, _, _) in enumerate(parts)), tokens=10**6
    )
    sizes = {str(i): ComponentSize(b, d, b) for i, (_, b, d) in enumerate(parts)}
    rows = plan(mixture, sizes)
    asked = sum(w for w, _, _ in parts)
    assert [r.weight for r in rows] == pytest.approx([w / asked for w, _, _ in parts])
    assert min(r.epochs for r in rows) == 1
    assert sum(r.epochs_at_budget * r.tokens for r in rows) == pytest.approx(10**6)


def test_an_empty_component():
    with pytest.raises(UserError, match="component c has a weight and no text"):
        plan(Mixture(components=(one("a", weight=1.0), one("c", weight=1.0))), SIZES)
    assert plan(Mixture(components=(one("c"),)), {})[0].weight == 0


def test_the_table_as_text():
    mixture = Mixture(components=(one("a", epochs=2.0), one("b")), tokens=2000)
    head, lines = table([row.to_dict() for row in plan(mixture, SIZES)])
    assert head[-1] == "epochs at 2,000 tokens"
    assert lines[0] == ["a", "1,000", "33.33 %", "2.00", "2,000", "100", "4.00"]
    assert lines[-1] == ["the mixture", "5,000", "100.00 %", "1.20", "6,000", "278", "2.67"]
    assert all(len(line) == len(head) for line in lines)
    assert table([])[1] == []


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 50))
def test_a_document_is_written_the_whole_epochs_and_perhaps_once_more(key, epochs):
    assert repeats(key, epochs) in (int(epochs), int(epochs) + 1)
    assert repeats(key, float(int(epochs))) == int(epochs)
    assert repeats(key, epochs) <= repeats(key, epochs + 0.5)


def test_fractional_epochs_are_right_on_average_and_independent_of_the_held_out_part():
    mixture = Mixture(components=(one("a"),))
    draw = random.Random(0)
    digests = [draw.randbytes(32) for _ in range(20_000)]
    total = sum(repeats(mixture.key(d), 1.3) for d in digests)
    assert total / len(digests) == pytest.approx(1.3, abs=0.015)  # 4.6 standard deviations
    heldout = [d for d in digests if int.from_bytes(d[:8], "big") / 2**64 < 0.1]
    assert sum(repeats(mixture.key(d), 0.5) for d in heldout) / len(heldout) == pytest.approx(
        0.5, abs=0.06
    )
    other = replace(mixture, seed=1)
    assert [mixture.key(d) for d in digests[:9]] != [other.key(d) for d in digests[:9]]
    assert mixture.key(digests[0]) == replace(mixture, tokens=5).key(digests[0])


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-03-05", (2024, 3, 5)),
        ("2024-03-05T12:00:00Z", (2024, 3, 5)),
        ("20240305", (2024, 3, 5)),
        ("2024-03", (2024, 3, 15)),
        ("2024", (2024, 7, 1)),
        ("2024-13-01", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(text, date):
    assert date_from(text) == (date and datetime.date(*date))


def test_the_weight_halves_with_each_half_life():
    today = datetime.date(2024, 1, 1)
    ages = [0, 100, 200, -50]
    weights = [age_weight(today - datetime.timedelta(a), today, 100.0) for a in ages]
    assert weights == [1, 0.5, 0.25, 1]  # what is dated in the future is new


def test_newer_documents_count_more_and_the_component_stays_as_large():
    mixture = Mixture(components=(one("a", half_life="100d"), one("b")))
    dates = ["2024-04-10", "2024-01-01", "2023-09-23", None, "1990-01-01"]
    weights = age_weights(mixture, ["a", "a", "a", "a", "b"], dates)
    assert weights[0] == pytest.approx(2 * weights[1]) == pytest.approx(4 * weights[2])
    assert sum(weights[:4]) == pytest.approx(4)
    assert weights[3] == 1  # no date: the mean
    assert weights[4] == 1  # no half-life: all alike
    sizes = [10, 1000, 5, 7, 9]
    weighed = age_weights(mixture, ["a", "a", "a", "a", "b"], dates, sizes)
    assert sum(w * s for w, s in zip(weighed[:3], sizes, strict=False)) == pytest.approx(1015)


def test_today_matters_only_for_what_is_newer():
    """Weights are ratios: another day to count from changes all of them alike."""
    dates = ["2020-01-01", "2021-01-01", "2022-01-01"]
    at = [
        age_weights(
            Mixture(components=(one("a", half_life="1y"),), today=today and datetime.date(*today)),
            ["a"] * 3,
            dates,
        )
        for today in (None, (2022, 1, 1), (2099, 1, 1), (2021, 1, 1))
    ]
    assert at[0] == at[1] == pytest.approx(at[2])
    assert at[3][1] == at[3][2] > at[3][0]


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 10**6)), min_size=1, max_size=30),
    st.integers(1, 2000),
)
def test_no_document_counts_too_much_and_none_less_for_being_newer(documents, half_life):
    mixture = Mixture(components=(one("a", half_life=f"{half_life}d"),))
    start = datetime.date(1900, 1, 1)
    dates = [(start + datetime.timedelta(age)).isoformat() for age, _ in documents]
    sizes = [size for _, size in documents]
    weights = age_weights(mixture, ["a"] * len(dates), dates, sizes)
    assert max(weights) <= MOST * (1 + 1e-9)
    ordered = [w for _, w in sorted(zip(dates, weights, strict=True))]
    assert ordered == sorted(ordered)
    mean = sum(w * s for w, s in zip(weights, sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(1, rel=1e-6)


def test_the_picture_shows_what_the_table_says():
    from maquette.workshop.mixture_chart import corpus_chart, mixture_chart

    rows = plan(Mixture(components=(one("a", epochs=2.0), one("b"))), SIZES)
    chart = mixture_chart(rows).to_dict()
    shares = [bar["share"] for bar in chart["data"]["values"]]
    assert shares == pytest.approx([0.2, 1 / 3, 0.8, 2 / 3])
    assert corpus_chart({"mixture": [r.to_dict() for r in rows]}).to_dict() == chart
    counts = {
        "a": {"train_bytes": 30, "heldout_bytes": 10},
        "b": {"train_bytes": 60, "heldout_bytes": 0},
    }
    plain = corpus_chart({"mixture": [], "components": counts}).to_dict()
    assert [bar["share"] for bar in plain["data"]["values"]] == [0.4, 0.6]
