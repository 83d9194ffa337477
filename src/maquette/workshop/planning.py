"""Devices, corpora and laws of a plan, by name."""

from pathlib import Path

from maquette.scaling.budget_split import Text
from maquette.scaling.devices import Device, device, from_machine, here
from maquette.scaling.laws import LAWS, ScalingLaw, law
from maquette.scaling.user_law import ladder_law, ladder_of


def device_named(name: str | None) -> Device:
    """A device of the table, or this machine, measured where it was not within the last day."""
    if name is not None:
        return device(name)
    known = here()
    if known is None:
        from maquette.base.machine import measure

        known = from_machine(measure())
    return known


def text_of(corpus: str) -> Text:
    """The corpus of a plan."""
    from maquette.corpus.text.named import open_corpus

    opened = open_corpus(corpus)
    size = opened.manifest["bytes"] / max(1, opened.manifest["tokens"])
    return Text(corpus, len(opened.train), opened.vocabulary, size)


def law_named(name: str | None, corpus: str | None = None) -> ScalingLaw:
    """The law of that name, the ladder of a folder, or the corpus's own ladder where it has one."""
    if name is not None and name not in LAWS and Path(name).expanduser().exists():
        return ladder_law(Path(name).expanduser())
    if name is None and corpus is not None:
        from maquette.corpus.text.named import open_corpus

        own = ladder_of(open_corpus(corpus).hash)
        if own is not None:
            return own
    return law(name or "besiroglu")
