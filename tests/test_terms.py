"""The terms of a source travel from the corpus to the run, to what is made of it, and to its export."""

import json
from dataclasses import replace

import pytest
from conftest import command, refused, some_text

from maquette.adaptation.adapters.config import LoRAConfig
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.corpus.document import Document
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.cloze import Cloze, write_cloze
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.terms import forbidden, joined_licences, said_terms, terms_of_manifest
from maquette.corpus.terms_card import read_terms
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_setup import create
from maquette.training.run_terms import check_export, terms_of
from maquette.workshop.adapt_data import data_of, source_terms
from maquette.workshop.adapt_self_instruct import read_seeds
from maquette.workshop.train import train

PERMISSIVE = (None, "MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "words (found", "GPL-3.0-only",
              "CC-BY-NC-4.0 OR MIT", "(MIT OR no-train) AND ISC", "llama-cpp")  # fmt: skip
PLANTED = {
    "no-train": "training",
    "CC-BY-NC-4.0": "export",
    "cc-by-nc-sa-3.0": "export",
    "research-only": "export",
    "MIT AND CC-BY-NC-ND-4.0": "export",
    "CC-BY-NC-4.0 or later": "export",
    "(no-train OR CC-BY-NC-4.0) WITH x": "export",
    "(MIT OR Zlib) AND research-only": "export",
    "openai-output": "others",
    "llama2": "others",
}


@pytest.mark.parametrize(("licence", "use"), PLANTED.items())
def test_a_clause_is_known(licence, use):
    assert use in forbidden(licence)


@pytest.mark.parametrize("licence", [one for one in PERMISSIVE if one])
def test_a_permissive_licence_forbids_nothing(licence):
    assert not forbidden(licence)


def text_corpus(path, licences, terms=()):
    documents = [
        Document(some_text(i, 60), "made", f"made:{i}", licence=licence)
        for i, licence in enumerate(licences)
    ]
    return build(path, documents, BuildOptions(vocabulary=257, heldout=0.2, terms=terms))


def examples_corpus(path, licences, **options):
    file = path.with_suffix(".jsonl")
    rows = [
        {"prompt": f"{i}+1=", "answer": str(i + 1)} | ({"license": one} if one else {})
        for i, one in enumerate(licences)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build_examples(path, [file], byte_tokenizer(), heldout=0.2, **options)


@pytest.mark.parametrize(
    ("made", "licence"),
    [(examples_corpus, one) for one in PLANTED]
    + [(text_corpus, one) for one in ("no-train", "research-only", "llama2")],
)
def test_a_planted_clause_blocks_what_it_forbids(made, licence, recipe, tmp_path):
    """One source of many is enough; the line names it; permissive ones alone block nothing."""
    licences = [*PERMISSIVE * 2]
    for planted in (False, True):
        corpus = made(tmp_path / f"corpus-{planted}", [*licences, licence] if planted else licences)
        terms = terms_of_manifest(corpus.manifest)
        assert [term.licence for term in terms] == ([licence] if planted else [])
        assert corpus.manifest["licences"]["MIT"] == 2
        kind = recipe.data if made is text_corpus else ExamplesData(sequence=32)
        run = RunDirectory(tmp_path / f"run-{planted}")
        own = replace(recipe, data=replace(kind, corpus=str(corpus.path)))
        if planted and "export" not in PLANTED[licence]:
            with pytest.raises(UserError, match="forbids t") as error:
                create(run, own, corpus)
            assert not (run / RECIPE).exists()
        else:
            create(run, own, corpus)
            if not planted:
                assert check_export(run.path) == []
                continue
            with pytest.raises(UserError, match="give away") as error:
                check_export(run.path)
            assert [term.licence for term in check_export(run.path, accepted=True)] == [licence]
        assert licence in str(error.value) and terms[0].source in str(error.value)
        assert "\n" not in str(error.value)


def test_examples_keep_their_licence(tmp_path):
    corpus = examples_corpus(tmp_path / "a", ["MIT"] * 4 + ["CC-BY-NC-4.0"] * 4)
    both = corpus.examples("train") + corpus.examples("heldout")
    assert sorted(one.licence for one in both) == ["CC-BY-NC-4.0"] * 4 + ["MIT"] * 4
    assert corpus.manifest["licences"] == {"CC-BY-NC-4.0": 4, "MIT": 4}


def test_what_is_made_of_a_corpus_or_a_file_keeps_its_terms(tmp_path):
    text = text_corpus(tmp_path / "text", ["MIT", "research-only"] * 6, ("forbid-training",))
    pairs = build_examples(tmp_path / "pairs", [text.path], byte_tokenizer())
    kept = {term.licence for term in terms_of_manifest(pairs.manifest)}
    assert kept == {"forbid-training", "research-only"}
    examples = pairs.examples("train") + pairs.examples("heldout")
    assert {one.licence for one in examples} == {"MIT", "research-only"}
    examples_corpus(tmp_path / "file", ["MIT"] * 4 + ["no-train"])
    found = source_terms([str(pairs.path), str(tmp_path / "file.jsonl"), "default"])
    assert {term.licence for term in found} == kept | {"no-train"}
    labelled = [Cloze((1, 2), (1.0, 0.0))] * 2
    made = write_cloze(
        tmp_path / "cloze", byte_tokenizer(), ["a", "b"], (((3,),), ((4,),)), labelled, labelled, (), found
    )  # fmt: skip
    assert terms_of_manifest(made.manifest) == found
    (seed,) = read_seeds(seeds_of(tmp_path, "no-train"))
    assert seed.licence == "no-train"


def seeds_of(folder, licence):
    path = folder / "seeds.jsonl"
    row = {"instruction": "Add.", "input": "1 1", "output": "2", "license": licence}
    path.write_text(json.dumps(row), encoding="utf-8")
    return path


def test_terms_that_a_user_says_are_of_all_sources(tmp_path):
    for corpus in (
        text_corpus(tmp_path / "a", ["MIT"] * 8, said_terms("forbid-export")),
        examples_corpus(tmp_path / "b", ["MIT"] * 8, terms=("forbid-export",)),
    ):
        (term,) = terms_of_manifest(corpus.manifest)
        assert (term.source, term.forbids) == ("all sources", ("export",))
    with pytest.raises(WrongUse, match="terms forbid-all are not known"):
        said_terms("forbid-export,forbid-all")


def test_terms_travel_to_adapted_and_merged_runs_and_stop_their_export(recipe, tmp_path):
    """Of the base, through a corpus without any; the mend is in the line."""
    corpus = text_corpus(tmp_path / "corpus", ["MIT"] * 20 + ["CC-BY-NC-4.0"])
    base, tuned, merged = (tmp_path / name for name in ("base", "tuned", "merged"))
    own = replace(recipe, steps=2, data=replace(recipe.data, corpus=str(corpus.path)))
    train(own, base)
    adapter = LoRAConfig(rank=2, alpha=4.0)
    train(replace(recipe, steps=2, start=str(base), adapter=adapter), tuned)
    assert command("adapt", "merge", tuned, "--run", merged).code == 0
    for run in (base, tuned, merged):
        assert [term.licence for term in terms_of(run)] == ["CC-BY-NC-4.0"]
        out = tmp_path / f"{run.name}-out"
        refused(command("export", "hf", run, out), "made:20", "CC-BY-NC-4.0", "--accept-terms")
        assert not out.exists()
    refused(command("export", "peft", tuned, tmp_path / "peft"), "made:20", code=1)
    said = command("export", "hf", base, tmp_path / "out", "--accept-terms")
    assert said.code == 0 and "CC-BY-NC-4.0" in said.out
    again = command("import", "hf", tmp_path / "out", tmp_path / "again", "--terms", "llama2")
    assert again.code == 0, again.err
    kept = terms_of(base)
    assert terms_of(tmp_path / "again")[:-1] == kept and "made:20 (CC-BY-NC-4.0)" in again.out
    assert terms_of(tmp_path / "again")[-1].licence == "llama2"
    assert command("export", "peft", tuned, tmp_path / "peft", "--accept-terms").code == 0
    back = ("import", "peft", tmp_path / "peft", tmp_path / "back", "--base", base)
    assert command(*back).code == 0
    assert terms_of(tmp_path / "back") == kept
    (tmp_path / "out" / "terms.json").unlink()  # as others keep a model: with its card alone
    assert command("import", "hf", tmp_path / "out", tmp_path / "carded").code == 0
    assert [(t.licence, t.forbids) for t in terms_of(tmp_path / "carded")] == [
        ("CC-BY-NC-4.0", ("export",))
    ]
    write_json(tmp_path / "out" / "terms.json", [{"licence": "x", "source": "y", "forbids": ["z"]}])
    refused(
        command("import", "hf", tmp_path / "out", tmp_path / "x"), "terms.json forbids what", code=1
    )
    refused(command(*back[:3], tmp_path / "x", *back[4:], "--terms", "llama2"), "leave them out")


@pytest.mark.parametrize(
    ("card", "licences"),
    [
        ("---\nlicense: llama2\n---\ntext", ["llama2"]),
        ("---\nlicense: [mit, cc-by-nc-sa-4.0]\n---\n", ["cc-by-nc-sa-4.0"]),
        ("---\nlicense: other\nlicense_name: llama-license\n---\n", ["llama-license"]),
        ("---\nlicense: other\n---\n", []),
        ("---\nlicense: [\n---\n", []),
        ("---\nname: a---b\nlicense: llama2\n---\n", ["llama2"]),
        ("\ufeff---\nlicense: llama2\n---\n", ["llama2"]),
        ("---\ntags: [\nlicense: llama2\n---\n", ["llama2"]),
        ("license: llama2", []),
        ("---", []),
    ],
)
def test_a_card_names_its_licence(card, licences, tmp_path):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert [term.licence for term in read_terms(tmp_path)] == licences


def test_what_a_model_wrote_may_train_that_model_alone(recipe, tmp_path):
    """The same terms among those of the run that is begun with say that it is that model."""
    own = examples_corpus(tmp_path / "own", ["llama2"] * 10)
    base = RunDirectory(tmp_path / "base")
    train(replace(recipe, steps=1), base.path)
    adapted = replace(
        recipe, start=str(base.path), data=ExamplesData(corpus=str(own.path), sequence=32)
    )
    with pytest.raises(UserError, match="other models"):
        create(RunDirectory(tmp_path / "run"), adapted, own)
    terms = [{"licence": "llama2", "source": "the model", "forbids": ["others"]}]
    write_json(base / "terms.json", terms)
    create(RunDirectory(tmp_path / "run"), adapted, own)
    assert {term.licence for term in terms_of(tmp_path / "run")} == {"llama2"}
    assert joined_licences(terms_of(tmp_path / "run")) == "llama2"


def test_a_corpus_from_before_has_no_terms(tmp_path):
    for made, opened in ((text_corpus, Corpus), (examples_corpus, ExamplesCorpus)):
        path = made(tmp_path / made.__name__, ["no-train"] * 10).path
        manifest = read_json(path / "manifest.json")
        del manifest["terms"], manifest["licences"]
        write_json(path / "manifest.json", manifest)
        assert terms_of_manifest(opened(path).manifest) == []
        assert command("corpus", "show", path).code == 0


def test_files_that_a_run_is_adapted_to_keep_their_licences(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"prompt": str(i), "answer": "x", "licence": "no-train"} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = data_of(str(file), tmp_path / "corpus", byte_tokenizer(), 32)
    assert terms_of_manifest(ExamplesCorpus(data.corpus).manifest)[0].licence == "no-train"
