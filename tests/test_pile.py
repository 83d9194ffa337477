"""The arms of the Pile's claim: one tokenizer, and nothing that is scored was read by any of them."""

import numpy as np

from maquette.corpus.tokenizer import digest
from maquette.systems import pile


def test_what_is_held_out_of_the_mixture_is_read_by_no_arm(monkeypatch):
    monkeypatch.setattr(pile, "SIZES", (1 << 18, 0.3, 300))
    whole, parts = pile.corpora(quick=False)
    assert list(parts) == whole.components

    def texts(corpus, split):
        return {row["sha256"] for row in corpus.documents.to_pylist() if row["split"] == split}

    assert whole.manifest["split"] == "hash"
    scored = texts(whole, "heldout")
    assert scored
    for name, part in parts.items():
        assert part.components == [name]
        assert digest(part.tokenizer) == digest(whole.tokenizer)
        assert not scored & texts(part, "train")
        assert texts(part, "train") <= texts(whole, "train")
    read = set[bytes]().union(*(texts(part, "train") for part in parts.values()))
    assert read == texts(whole, "train")


def test_the_arms_differ_in_their_text_alone(corpus):
    one, other = (pile.arm(corpus, 0, quick) for quick in (False, True))
    assert one.steps * one.units_per_step <= pile.TOKENS < (one.steps + 1) * one.units_per_step
    assert one.to_dict() | {"steps": other.steps} == other.to_dict()


def test_the_picture_holds_every_score_and_the_average():
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    chart = pile.chart(["mixture", "a", "b"], ["a", "b"], table).to_dict()
    cells = {(c["trained on"], c["scored on"]): c["bits"] for c in chart["data"]["values"]}
    assert cells["a", "b"] == 4.0
    assert cells["b", "average"] == 6.0
    assert len(cells) == 9
