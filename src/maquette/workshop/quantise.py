"""A run in few bits: quantised, scored on the run's own held-out text beside the run, and written.

The table of all kinds (`compare`) says what each costs there; see `nn/quantised.py` for the kinds, and
`models/quantised.py` for what of a model has which.
"""

import copy
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from maquette.adaptation.adapters.lora import merge_and_detach
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, write_atomic, write_json
from maquette.corpus.examples.chat_template import CHAT_TEMPLATE
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models.base import LanguageModel
from maquette.models.quantised import (
    parameters,
    quantise,
    quantised_modules,
    stored_tensors,
    weight_bytes,
)
from maquette.models.store import WEIGHTS, language_config, load_config, save_config, save_tensors
from maquette.nn.quantised import Format
from maquette.training.trained_model import open_model
from maquette.workshop.chat import learnt_template
from maquette.workshop.gates import gates, take_gates
from maquette.workshop.load import Loaded
from maquette.workshop.merge import KEPT

RECORD = "quantised.json"
SCORED = 200_000
"""bytes of held-out text that are scored"""


@dataclass(frozen=True)
class Row:
    """A kind of weights of a run."""

    weights: str
    """name of the kind"""
    bits_per_weight: float
    """bytes of all weights in memory, in bits a parameter"""
    disk: int | None
    """bytes of the weights file; None: it was not written"""
    memory: int
    """bytes of all weights in memory"""
    bits_per_byte: float | None
    """bits per byte of held-out text; None: there is none"""
    change: float | None
    """change of the bits per byte against the run's own weights, as a share"""


def quantise_run(
    run: Path,
    out: Path,
    form: Format,
    *,
    compare: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Write the model of a run, quantised, into the folder `out`; returns the run's row, and its own.

    Low-rank adapters are merged first. compare: rows of all kinds besides. Raises UserError or WrongUse for a
    run that is quantised already, whose weights are not finite, or that has other adapters.
    """
    run, out = run.expanduser(), out.expanduser()
    if out.exists():
        raise WrongUse(f"{out} exists: choose another folder")
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    language_config(run)  # refuses a model of pictures
    model = open_model(run)
    assert isinstance(model, LanguageModel)
    if quantised_modules(model):
        raise WrongUse(f"{run} is quantised already: name the run that it was made of")
    merge_and_detach(model)
    scorer = _Scorer(run, say)
    there = run / WEIGHTS
    size = there.stat().st_size if there.exists() else None
    own = scorer.row("the run's", model, size, None)
    rows = [own]
    if compare:
        rows += [scorer.row(name, other, None, own) for name, other in _kinds(model, form)]
    quantise(model, form)
    with directory_aside(out) as folder:
        save_config(folder, load_config(run))
        save_tensors(folder / WEIGHTS, *stored_tensors(model))
        for name in KEPT:
            if (run / name).exists():
                shutil.copyfile(run / name, folder / name)
        take_gates(gates(run), folder)
        template = learnt_template(run)
        if template is not None:
            write_atomic(folder / CHAT_TEMPLATE, template)
        disk = (folder / WEIGHTS).stat().st_size
        rows.append(scorer.row(name_of(form), model, disk, own))
        record = {"run": str(run), "form": dataclasses.asdict(form)}
        write_json(folder / RECORD, record | {"rows": [dataclasses.asdict(row) for row in rows]})
    return rows


def name_of(form: Format) -> str:
    """The name of a form, as a table has it."""
    kind = ", asymmetric" if form.asymmetric else ""
    return f"int{form.bits}{kind}, group {form.group}"


class _Scorer:
    """Rows of a run's models."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._tokenizer = load_tokenizer(run / TOKENIZER)
        self._text = True

    def row(self, name: str, model: LanguageModel, disk: int | None, own: Row | None) -> Row:
        bits = self._score(model)
        before = None if own is None else own.bits_per_byte
        change = None if bits is None or before is None else bits / before - 1
        memory = weight_bytes(model)
        return Row(name, 8 * memory / parameters(model), disk, memory, bits, change)

    def _score(self, model: LanguageModel) -> float | None:
        if not self._text:
            return None
        loaded = Loaded(self._run, model, self._tokenizer)
        most = None if loaded.training_text() is None else SCORED
        try:
            return loaded.score_heldout(most_bytes=most)["all"].bits_per_byte
        except UserError as error:
            self._text = False
            self._say(f"held-out text is not scored: {error}")
            return None


def _kinds(model: LanguageModel, form: Format) -> Iterator[tuple[str, LanguageModel]]:
    """Copies of a model in every kind but that of `form`."""
    half = copy.deepcopy(model)
    for p in half.parameters():
        if p.dim() > 1:
            p.data = p.data.bfloat16()
    yield "bf16", half
    forms = [Format(bits=b, group=form.group, asymmetric=a) for b in (8, 4) for a in (False, True)]
    for other in forms:
        if other != form:
            quantised = copy.deepcopy(model)
            quantise(quantised, other)
            yield name_of(other), quantised
    whole = Format(bits=4, group=form.group)
    blocks = copy.deepcopy(half)
    quantise(blocks, whole, "plain")
    yield f"{name_of(whole)}, embedding and output in bf16", blocks
    every = copy.deepcopy(model)
    quantise(every, whole, whole)
    yield f"{name_of(whole)}, embedding and output too", every
