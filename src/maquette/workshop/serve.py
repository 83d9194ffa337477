"""Runs as the server knows them: what a folder holds, and how it is read into memory."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.adaptation.adapters.store import ADAPTER
from maquette.audit.index import open_index
from maquette.audit.member import member
from maquette.audit.trace import trace
from maquette.base.arrays import check_corpus
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.text.portrait import PORTRAIT, open_portrait
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.picture_config import PictureConfig
from maquette.models.prior_config import PriorConfig
from maquette.models.quantised import stored_forms
from maquette.models.store import CONFIG, load_config
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.serving.api.run import Lookup, Opened, Run, TextModel
from maquette.serving.engine import Engine
from maquette.serving.engine_memory import free_memory
from maquette.serving.weights import Weights, memory_bytes
from maquette.training.initial_model import kept_file, weights_file
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import text_of
from maquette.training.trained_model import find_base
from maquette.workshop.chat import chat_template, learnt_template
from maquette.workshop.gates import gates
from maquette.workshop.load import load
from maquette.workshop.serve_pictures import ClipModel, ServedPictures

Adapters = Mapping[str, Path]
"""folders of adapted runs by the name of their adapter"""


def served_run(
    folder: Path, adapters: Adapters, weights: Weights = "auto", draft: Path | None = None
) -> Run:
    """The run of a folder, with adapters of it. Raises UserError where there is nothing to serve.

    draft: a smaller run whose tokens this one checks.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    config = load_config(folder)
    made_of = [folder, *adapters.values(), *([] if draft is None else [draft])]
    closed = dict.fromkeys(gate for one in made_of for gate in gates(one))
    folders = [folder, *_bases(folder), *adapters.values()]
    files = [*map(_weights, folders), folder / CONFIG]
    about: dict[str, Any] = {"parameters": config.parameters(), "model": config.kind}
    opened: Callable[[], Opened]
    memory = 4 * config.parameters()
    if not isinstance(config, PictureConfig):
        kind, opened = (
            "text",
            functools.partial(_open_text, folder, dict(adapters), weights, draft),
        )
        quantised = files[0].stat().st_size if stored_forms(files[0]) else None
        memory = memory_bytes(config.parameters(), weights, quantised)
        about |= {
            "context": config.context,
            "vocabulary": config.vocabulary,
            "adapters": sorted(adapters),
            "chat": learnt_template(folder) is not None,
        }
    else:
        about |= {"image_size": config.image_size}
        if isinstance(config, ClipConfig):
            kind, opened = "clip", functools.partial(ClipModel, folder)
        elif isinstance(config, DiffusionConfig | SuperResolutionConfig):
            kind, opened = "pictures", functools.partial(ServedPictures, folder)
            about |= _about_pictures(config)
        elif isinstance(config, PriorConfig):
            kind, opened = "prior", functools.partial(_nothing, folder)
        else:
            raise WrongUse(
                f"{folder} is a {config.kind}, which classifies: maquette eval scores it"
            )
    return Run(
        name=folder.resolve().name,
        folder=folder,
        kind=kind,
        about=about,
        gates=tuple(closed),
        weights=tuple(files),
        memory=memory,
        load=opened,
    )


def served_runs(
    folders: Sequence[Path],
    adapted: Sequence[Path],
    weights: Weights = "auto",
    draft: Path | None = None,
) -> list[Run]:
    """The runs of folders, each with those of the adapted runs that are made of it. draft: see `served_run`.

    Raises WrongUse for an adapted run whose base is not among them, and for names that cannot be.
    """
    own: dict[Path, dict[str, Path]] = {folder.expanduser(): {} for folder in folders}
    for run in adapted:
        run = run.expanduser()
        if not (run / ADAPTER).exists():
            raise WrongUse(f"--adapter {run} is no adapted run: name one of maquette adapt")
        base = find_base(run)
        of = next((f for f in own if base is not None and f.is_dir() and _same(f, base)), None)
        if of is None:
            raise WrongUse(
                f"--adapter {run} adapts {base}, which is not served: name that run, too"
            )
        own[of][run.resolve().name.replace(".", "-")] = run
    runs = [served_run(folder, adapters, weights, draft) for folder, adapters in own.items()]
    if draft is not None and sum(one.kind == "text" for one in runs) != 1:
        raise WrongUse("--draft is for one run of text: serve that run alone")
    for one in runs:
        if ":" in one.name:
            raise WrongUse(f"{one.name} has a colon, which names adapters: rename its folder")
    return runs


def engine_for(
    cache: int | None, context_shift: bool = False, runs: int = 1
) -> Callable[[TextModel], Engine]:
    """Makes engines; cache: bytes of keys and values of each at most, None: a share of half of what is free.

    context_shift: whether an answer goes on when the context is full, with the middle dropped. runs: number
    of runs that share the memory.
    """

    def make(opened: TextModel) -> Engine:
        share = free_memory(opened.model) // (2 * max(1, runs))
        return Engine(
            opened.model,
            opened.tokenizer,
            memory=share if cache is None else cache,
            context_shift=context_shift,
            draft=opened.draft,
        )

    return make


def _same(folder: Path, base: Path) -> bool:
    """Whether a served folder is a base, or another adapted run of it."""
    return any(one.samefile(base) for one in [folder, *_bases(folder)])


def _bases(folder: Path) -> list[Path]:
    """The base of an adapted run, whose weights are in memory with it."""
    base = find_base(folder) if (folder / ADAPTER).exists() else None
    return [] if base is None else [base]


def _weights(folder: Path) -> Path:
    return kept_file(folder) if (folder / ADAPTER).exists() else weights_file(folder)


def _about_pictures(config: PictureConfig) -> dict[str, Any]:
    if not isinstance(config, DiffusionConfig):
        return {"task": "upsample"}
    reads = "embedding" if config.embedding else config.condition
    return {"task": config.task, "condition": reads}


def _nothing(folder: Path) -> Opened:
    raise WrongUse(f"{folder.name} makes embeddings for a decoder, and nothing by itself")


def _open_text(
    folder: Path, adapters: dict[str, Path], weights: Weights, draft: Path | None
) -> TextModel:
    loaded = load(folder)
    for name, adapted in adapters.items():
        loaded.attach(name, adapted, weight=0.0)
    loaded.optimise(weights)
    template, learnt = chat_template(folder, loaded.tokenizer)
    lookups = _Lookups(folder)
    return TextModel(
        loaded.model,
        loaded.tokenizer,
        template,
        learnt,
        trace=lookups.trace,
        portrait=lookups.portrait,
        adapters={name: float(one.weight) for name, one in loaded.adapters.items()},
        draft=None if draft is None else load(draft).optimise(weights).model,
    )


class _Lookups:
    """What the training text of a run says of texts; it is opened at the first of them."""

    trace: Lookup
    portrait: Lookup

    def __init__(self, folder: Path) -> None:
        self._run = RunDirectory(folder)

        @functools.cache
        def index() -> Any:
            return open_index(text_of(self._run), build=False)

        @functools.cache
        def known() -> Any:
            corpus = text_of(self._run)
            if not (corpus.path / PORTRAIT).exists():
                raise UserError(
                    "the training text has no portrait: maquette audit portrait makes one"
                )
            found = open_portrait(corpus.path / PORTRAIT)
            check_corpus(
                found.path, {"corpus": found.corpus}, corpus.hash, "maquette audit portrait"
            )
            return found

        self.trace = lambda text: trace(index(), text).to_dict()
        self.portrait = lambda text: _finite(asdict(member(known(), text)))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values with None for infinity and NaN, which JSON has no word for."""
    bad = {k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return values | dict.fromkeys(bad)
