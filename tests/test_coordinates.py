"""The coordinate check: flat under the rules, growing without them, and when a rule is broken."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Multipliers, Parametrisation, Role, Scaling
from maquette.training.datasets.text_config import TextData
from maquette.training.recipe import LanguageRecipe, Optimiser
from maquette.workshop.charts import png
from maquette.workshop.coordinates import (
    HIDDEN,
    LOGITS,
    Coordinates,
    coordinate_check,
    coordinates,
)
from maquette.workshop.resized_recipe import resized

WIDTHS = (32, 64, 128, 256)


def small(**model: object) -> LanguageRecipe:
    """Two blocks with heads of 16, whose rules are those of width 32."""
    fields = {
        "vocabulary": 257, "context": 64, "width": 32, "depth": 2, "heads": 2,
        "parametrisation": Parametrisation(base_width=32, base_depth=2, base_head_dim=16),
    } | model  # fmt: skip
    return LanguageRecipe(
        model=DecoderConfig(**fields),
        data=TextData(corpus="tiny", sequence=32),
        optimiser=Optimiser(learning_rate=2**-6),
    )


@pytest.fixture(scope="module")
def found() -> Coordinates:
    return coordinates(small(), WIDTHS)


def test_activations_keep_their_size_over_eight_widths(found):
    """Yang et al. 2022, appendix D.1: every slope at the last pass is within the bounds."""
    for tensor, slopes in found.slopes["mup"].items():
        least, most = LOGITS if tensor == "logits" else HIDDEN
        assert least <= slopes[-1] <= most, tensor
    assert found.verdict == "flat"
    assert found.slopes["mup"]["logits"][0] == pytest.approx(-0.5, abs=0.1)  # 1/sqrt(width)


def test_they_grow_in_the_standard_parametrisation(found):
    tensor, slope = found.steepest("standard")
    assert slope > 0.5  # grows beyond doubt
    assert "grows as width" in found.judged("standard")
    last = {name: rows[-1] for name, rows in found.slopes["standard"].items()}
    assert last[tensor] == max(value for name, value in last.items() if name != "logits")


def test_every_tensor_of_every_block_is_seen(found):
    blocks = [
        f"block {i} {what}" for i in (0, 1) for what in ("attention", "feed-forward", "stream")
    ]
    assert sorted(found.tensors) == sorted([*blocks, "logits"])
    assert found.sizes["mup"].shape == (7, 6, 4)
    assert np.isfinite(found.sizes["mup"]).all()


@pytest.mark.parametrize("broken", ["rate", "start", "logits"])
def test_a_broken_rule_is_found(broken, monkeypatch):
    """One rate for all, hidden matrices that do not start smaller, logits that are not divided."""
    right = Scaling.multipliers

    def wrong(self: Scaling, role: Role, fan_in: int, residual: bool = False) -> Multipliers:
        m = right(self, role, fan_in, residual)
        if role != Role.HIDDEN:
            return m
        if broken == "rate":
            return replace(m, learning_rate=1.0)
        return replace(m, std=1 / math.sqrt(32)) if broken == "start" else m

    monkeypatch.setattr(Scaling, "multipliers", wrong)
    if broken == "logits":
        monkeypatch.setattr(Scaling, "output_multiplier", property(lambda self: 1.0))
    verdict = coordinates(small(), (32, 128, 256), seeds=1).verdict
    assert "grows" in verdict
    assert ("logits" in verdict) == (broken == "logits")


def test_a_picture_and_plain_values():
    values, chart = coordinate_check(small(), (32, 64), seeds=1)
    assert values["flat"] is (values["verdict"] == "flat")
    assert {"widths", "slopes", "learning_rate", "standard"} <= values.keys()
    assert png(chart).startswith(b"\x89PNG")


def test_widths_by_themselves_begin_with_the_head_size():
    model = small(width=128, heads=2).model
    assert coordinates(small(width=128, heads=2), seeds=1, steps=2).widths[0] == model.head == 64
    assert coordinates(small(), seeds=1, steps=2).widths == WIDTHS


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([32], "give at least two"),
        (
            [32, 40],
            "width 40 is not divisible by the head size 16, which a proxy keeps: use 32 or 48",
        ),
        ([0, 32], "width is 0"),
    ],
)
def test_widths_that_cannot_be(widths, message):
    with pytest.raises(WrongUse, match=message):
        coordinates(small(), widths, seeds=1)


def test_another_width_keeps_heads_and_rules():
    wide = small(width=128, heads=8, kv_heads=4, hidden=320)
    narrow = resized(wide, 64)
    assert (narrow.model.heads, narrow.model.kv_heads, narrow.model.hidden) == (4, 2, 160)
    assert narrow.model.head == wide.model.head
    assert narrow.model.parametrisation == wide.model.parametrisation
    assert resized(narrow, 128) == wide
    assert resized(small(kv_heads=1), 128).model.kv_heads == 1  # multi-query stays it
    with pytest.raises(WrongUse, match="groups of 2 do not divide: use a multiple of 32"):
        resized(wide, 48)
    assert resized(wide, 64, depth=5).model.depth == 5
    changed = {
        f.name
        for f in dataclasses.fields(wide.model)
        if getattr(wide.model, f.name) != getattr(narrow.model, f.name)
    }
    assert changed == {"width", "heads", "kv_heads", "hidden"}
