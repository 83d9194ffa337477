"""PET: patterns, the loss over the labels' words, the ensemble, generations, found words, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import command, refused

from maquette.adaptation.pet import (
    cloze_loss,
    ensemble,
    find_words,
    label_scores,
    next_generation,
    softmax,
)
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock
from maquette.corpus.examples.cloze import Cloze, ClozeCorpus, write_cloze
from maquette.corpus.examples.patterns import (
    LabelledText,
    Pattern,
    Patterns,
    labelled_texts,
    read_patterns,
    unlabelled_texts,
)
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.models.store import WEIGHTS, load_tensors, save_tensors
from maquette.training import optimiser
from maquette.training.datasets.cloze import ClozeDataset, WordPlaces
from maquette.training.datasets.cloze_config import ClozeData
from maquette.training.datasets.text_config import TextWatch
from maquette.workshop.adapt_pet import PetOptions, adapt_pet
from maquette.workshop.load import load
from maquette.workshop.pet_texts import PatternTexts, read_texts

WORDS = (((5, 6), (7,)), ((5, 8),), ((9, 9, 9),))  # three labels, of two words, one and one
SINGLE = (((5,), (6,)), ((7,),))


def texts(*labels):
    return [
        LabelledText({"prompt": f"text {n}"}, label, f"f:{n}") for n, label in enumerate(labels)
    ]


@pytest.fixture
def dataset(recipe, corpus, tmp_path):
    """A cloze dataset of three contexts of different lengths, and its recipe."""
    rows = [
        Cloze((1, 2, 3), (1.0, 0.0, 0.0)),
        Cloze((4,), (0.0, 0.5, 0.5)),
        Cloze((2, 2, 2, 2), (0.2, 0.3, 0.5)),
    ]
    made = write_cloze(
        tmp_path / "cloze", corpus.tokenizer, "abc", WORDS, rows, rows[:2], [Cloze((1, 2, 3, 4, 5))]
    )
    data = ClozeData(corpus=str(made.path), sequence=8, alpha=0.25, temperature=2.0)
    watch = TextWatch(sample_tokens=0, report=False)
    own = replace(recipe, data=data, batch=3, watch=watch)
    return ClozeDataset(own, made), own


def expected(model, contexts, words):
    """Means over the words of a label of their log-likelihoods, one request at a time."""
    return [
        [
            np.mean([log_likelihoods(model, [Request(c, w)])[0].log_likelihood for w in own])
            for own in words
        ]
        for c in contexts
    ]


def test_scores_of_labels_are_the_likelihoods_of_their_words(dataset):
    """Of words of one token and of several; what they share is computed once."""
    data, recipe = dataset
    model = recipe.model.build().initialise(0).eval()
    batch = data.heldout()[0]
    assert batch.tokens.shape == (
        2,
        2,
        8,
    )  # with (5,) and with (9, 9), of which () and (9,) are parts
    contexts = [(1, 2, 3), (4,)]
    with torch.no_grad():
        found = label_scores(model, batch)
    assert torch.allclose(found, torch.tensor(expected(model, contexts, WORDS)).float(), atol=1e-4)
    assert WordPlaces(SINGLE).lay([(1, 2)], 2)[0].shape == (
        1,
        1,
        2,
    )  # one row, without room for more


def test_the_loss_is_over_the_words_of_the_labels_alone_with_the_text_beside_it(dataset):
    """By hand: (1 - alpha) T^2 CE at temperature T, alpha of the mean loss of unlabelled tokens."""
    data, recipe = dataset
    model = recipe.model.build().initialise(0).train()
    batch = data.step(0)[0]
    loss = cloze_loss(model, batch, recipe.data)
    scores = label_scores(model, batch) / 2
    wanted = -(batch.probabilities * scores.log_softmax(-1)).sum()
    assert loss.count == 3 and torch.allclose(loss.value, wanted)
    logits = model(torch.tensor([[1, 2, 3, 4]]))[0]
    text = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3, 4, 5]))
    assert torch.allclose(loss.total, 0.75 * 4 * wanted + 0.25 * 3 * text, rtol=1e-4)
    loss.total.backward()
    assert model.output.weight.grad.any()
    plain = cloze_loss(model, batch, replace(recipe.data, alpha=0.0))
    assert torch.allclose(plain.total, 4 * wanted)


def test_the_loss_of_a_step_does_not_depend_on_its_batches_and_ranks(dataset, corpus, tmp_path):
    """Unlabelled contexts of different lengths: a mean over the tokens of all."""
    _, recipe = dataset
    rows = [Cloze((1, 2, 3), (1.0, 0.0, 0.0)), Cloze((4,), (0.0, 0.5, 0.5))]
    unlabelled = [Cloze(tuple(range(1, n))) for n in (3, 4, 9)]
    made = write_cloze(tmp_path / "long", corpus.tokenizer, "abc", WORDS, rows, rows, unlabelled)
    own = replace(recipe, data=replace(recipe.data, corpus=str(made.path)), batch=6)
    model = own.model.build().initialise(0).train()
    totals = [
        sum(
            float(cloze_loss(model, batch, own.data).total.detach())
            for rank in range(world)
            for batch in ClozeDataset(replace(own, micro_batch=micro), made).step(6, rank, world)
        )
        for micro, world in ((6, 1), (1, 1), (3, 2), (1, 3))
    ]
    assert totals == pytest.approx([totals[0]] * 4, rel=1e-5)


def test_a_micro_batch_of_each_rank_is_its_share(dataset):
    data, _ = dataset
    whole = data.step(6)[0]
    shares = [data.step(6, rank, 3)[0] for rank in range(3)]
    for name in ("tokens", "places", "probabilities", "unlabelled"):
        assert torch.equal(torch.cat([getattr(s, name) for s in shares]), getattr(whole, name))


def test_the_ensemble_weighs_models_by_what_they_got_right():
    scores = np.log(np.array([[[0.8, 0.2]], [[0.1, 0.9]]]))  # two models, one text, two labels
    one = softmax(ensemble(scores + 7.0, np.array([1.0, 0.0])))
    assert one == pytest.approx(np.array([[0.8, 0.2]]))
    both = ensemble(scores, np.array([3.0, 1.0]))
    assert both == pytest.approx(0.75 * scores[0] + 0.25 * scores[1])
    none = ensemble(scores, np.zeros(2))
    assert none == pytest.approx(scores.mean(0))
    assert softmax(np.array([0.0, np.log(9.0)]), 2.0) == pytest.approx([0.25, 0.75])


def test_a_generation_learns_what_others_are_sure_of_in_proportion_to_the_labels():
    """Five times as many as there are labelled, by label; a model's own labels change nothing for it."""
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(9, 200, 3))
    found = next_generation(scores, np.ones(9), [4, 2, 0], generation=1, seed=3)
    assert len(found) == 9
    for one in found:
        assert np.bincount(one.labels, minlength=3).tolist() == [16, 8, 4]
        assert len(set(one.texts.tolist())) == len(one.texts)
    assert [f.texts.tolist() for f in found] == [
        f.texts.tolist() for f in next_generation(scores, np.ones(9), [4, 2, 0], 1, 3)
    ]
    changed = scores.copy()
    changed[0] = -changed[0]
    assert (
        next_generation(changed, np.ones(9), [4, 2, 0], 1, 3)[0].texts.tolist()
        == found[0].texts.tolist()
    )
    grown = next_generation(scores, np.ones(9), [1, 1, 1], generation=2, seed=3)
    assert np.bincount(grown[0].labels).tolist() == [24, 24, 24]
    sure = np.zeros((2, 300, 2))
    sure[:, :, 0] = np.where(np.arange(300) < 150, 9.0, 0.01)  # half certain, half as good as not
    taken = next_generation(sure, np.ones(2), [10, 1], 1, 0)[0]
    assert (taken.texts[taken.labels == 0] < 150).mean() > 0.55
    alone = next_generation(sure[:1], np.ones(1), [1, 1], 1, 0)  # there are no others
    assert set(alone[0].labels.tolist()) == {0}


def test_found_words_tell_the_labels_apart_and_are_not_the_frequent_ones():
    """Token 0 follows every text, 1 and 2 one label each, 3 is no candidate, 4 follows nothing."""
    rows = {0: [0.6, 0.2, 0.05, 0.1, 0.05], 1: [0.6, 0.05, 0.2, 0.1, 0.05]}
    labels = np.array([0, 0, 1, 1, 1])
    table = np.log(np.array([rows[label] for label in labels]))
    assert find_words(table, labels, 1, np.array([0, 1, 2, 4])) == [[1], [2]]
    table[:, 3] = np.log(np.where(labels == 0, 0.3, 1e-9))  # tells best, but is no word
    assert find_words(table, labels, 1, np.array([0, 1, 2, 4])) == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("patterns: []\nwords: {a: x, b: y}", ["no pattern"]),
        ("patterns: ['{prompt} {word} it was']\nwords: {a: x, b: y}", ["does not end with {word}"]),
        ("patterns: ['it was {word}']\nwords: {a: x, b: y}", ["no field of a text"]),
        ("patterns: ['{prompt} { {word}']\nwords: {a: x, b: y}", ["is broken", "write {{"]),
        ("patterns: ['{prompt} {word}']\nwords: {a: x}", ["1 labels to choose from"]),
        ("patterns: ['{prompt} {word}']\nwords: {}", ["0 labels to choose from"]),
        ("patterns: ['{prompt} {word}']\nwords: {a: x, b: }", ["label b has no word"]),
        ("patterns: ['{prompt} {word}']\nwords: {a: x, b: [y, x]}", ["x is a word of a and of b"]),
        ("patterns: '{prompt} {word}'\nwords: {a: x, b: y}", ["write a list"]),
        ("patterns: ['{prompt} {word}']\nwords: x", ["for every label"]),
        ("pattern: ['{prompt} {word}']", ["unknown field pattern", "patterns"]),
        ("- a", ["holds no patterns"]),
        ("a: [", ["is not YAML"]),
    ],
)
def test_patterns_that_cannot_be_are_one_line(content, parts, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(WrongUse) as error:
        read_patterns(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value


def test_patterns_render_fields_and_say_what_they_cannot():
    pattern = Pattern("{{{title}}} {prompt}:  {word}")
    text = LabelledText({"title": "Up", "prompt": "a film"}, "good", "f:3")
    assert pattern.context(text) == "{Up} a film:" and pattern.word("fine") == "  fine"
    with pytest.raises(UserError, match=r"f:0 has no field 'title'.*it has prompt"):
        pattern.context(texts(None)[0])
    with pytest.raises(UserError, match="f:1: the pattern .* renders nothing"):
        Pattern("{prompt} {word}").context(LabelledText({"prompt": " "}, None, "f:1"))
    with pytest.raises(
        UserError, match=r"f:0 has the label 'goood', which has no word: did you mean 'good'"
    ):
        Patterns((pattern,), {"good": ("x",), "bad": ("y",)}).check(texts("goood"))


def test_texts_are_read_with_their_fields_and_held_out_ones_are_in_no_other_side(tmp_path):
    lines = [{"text": f"t{n}", "label": "ab"[n % 2], "title": "x"} for n in range(20)]
    path, more = tmp_path / "a.jsonl", tmp_path / "more.txt"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more.write_text("t1\n\nt2\nnew\nnew\n", encoding="utf-8")
    fields = {"prompt": "text", "answer": "label"}
    known, own, _ = labelled_texts(str(path), fields)
    assert len(known) == 20 and not own
    assert known[1].fields["title"] == "x" and known[1].label == "b"
    assert [t.prompt for t in unlabelled_texts(str(more))] == ["t1", "t2", "new"]
    assert unlabelled_texts(str(path))[0].prompt == "t0"  # its label is not looked at
    found, patterns = read_texts(str(path), str(more), None, None, fields=fields, labels=6)
    assert patterns.words == {"a": ("a",), "b": ("b",)}
    assert len(found.heldout) == 4 and sorted(t.label for t in found.labelled) == list("aaabbb")
    sides = [{t.prompt for t in side} for side in (found.labelled, found.heldout, found.unlabelled)]
    assert not sides[1] & (sides[0] | sides[2])


@pytest.fixture
def files(tmp_path):
    """Twelve labelled texts, held-out and unlabelled ones, and two patterns."""
    kinds = {"up": "rise", "down": "fall"}
    lines = [
        {"prompt": f"{kinds[label]} {n}", "answer": label} for n in range(10) for label in kinds
    ]
    for name, part in {"data": lines[:12], "test": lines[12:]}.items():
        text = "".join(json.dumps(line) + "\n" for line in part)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    more = "".join(f"{kind} {n}\n" for n in range(20, 30) for kind in kinds.values())
    (tmp_path / "more.txt").write_text(more, encoding="utf-8")
    written = "patterns: ['{prompt} so {word}', 'It is {prompt}: {word}']\nwords: {up: ab, down: [ac, x]}\n"
    (tmp_path / "p.yaml").write_text(written, encoding="utf-8")
    return tmp_path


def asked(trained, files, run, *more):
    return command(
        "adapt", "pet", trained, files / "data.jsonl", "--unlabelled", files / "more.txt",
        "--heldout", files / "test.jsonl", "--patterns", files / "p.yaml", "--run", run, *more,
        "--steps", 12, "--distil-steps", 12, "--batch", 8, "--learning-rate", 0.01, "--json",
    )  # fmt: skip


def test_the_command_learns_and_leaves_an_ordinary_run(trained, files):
    before = (trained / WEIGHTS).read_bytes()
    said = asked(trained, files, files / "run")
    assert said.code == 0, said.err
    found = said.json
    kept = json.loads((files / "run" / "adaptation.json").read_text(encoding="utf-8"))
    assert kept == found and found["models"] == 3 and found["method"] == "pet"
    assert (trained / WEIGHTS).read_bytes() == before
    assert found["forgetting"] is not None and found["labelled"] == 12 and found["unlabelled"] == 20
    assert [p["words"]["down"] for p in found["patterns"]] == [["ac", "x"]] * 2
    corpus, last = ClozeCorpus(files / "run-corpus"), load(files / "run")
    rows = corpus.heldout
    scores = np.array(expected(last.model, [r.tokens for r in rows], corpus.words))
    right = scores.argmax(-1) == np.array([r.probabilities for r in rows]).argmax(-1)
    assert found["metric_after"] == right.mean() and found["stderr_after"] is not None
    steps = last.metrics
    assert steps[-1]["heldout_loss"] < steps[0]["loss"]
    assert not list((files / "run-pet").glob("*/"))  # of the others what they said is kept
    assert command("generate", files / "run", "rise 3 so", "--tokens", 2).code == 0
    assert command("eval", files / "run", "--text", files / "more.txt").code == 0
    scored = command("eval", files / "run", "--json")
    assert scored.code == 0, scored.err

    refused(asked(trained, files, files / "run"), "exists", "--resume", code=2)
    with lock(files / ".run.lock"):
        refused(asked(trained, files, files / "run", "--resume"), "by another process", code=2)
    refused(
        asked(trained, files, files / "run", "--resume", "--seed", 1),
        "begun with other options",
        code=2,
    )
    refused(asked(trained, files, files / "other", "--labels", 0), "labels is 0", code=2)
    (files / "data.jsonl").write_text('{"prompt": "rise", "answer": "upp"}\n', encoding="utf-8")
    refused(
        asked(trained, files, files / "other"), "label 'upp', which has no word", "'up'", code=1
    )
    assert not (files / "other").exists()


def test_cut_off_anywhere_and_resumed_it_is_the_one_that_was_not(trained, files, monkeypatch):
    """Two generations of two patterns, cut off amid each stage."""
    options = PetOptions(steps=3, distil_steps=3, batch=4, generations=2)
    given = {
        "unlabelled": str(files / "more.txt"),
        "heldout": str(files / "test.jsonl"),
        "patterns": read_patterns(files / "p.yaml"),
    }
    source = str(files / "data.jsonl")
    whole = adapt_pet(trained, source, files / "whole", options, **given)
    assert [g["texts"] for g in whole.details["generations"]] == [12, 12 + 20]
    calls, original = [], optimiser.set_learning_rate

    def dying(*words):
        calls.append(1)
        if len(calls) in (2, 7, 16):  # of the first model, of the second generation, of the last
            raise KeyboardInterrupt
        return original(*words)

    monkeypatch.setattr(optimiser, "set_learning_rate", dying)
    cuts = 0
    while True:
        try:
            parts = adapt_pet(trained, source, files / "parts", options, resume=True, **given)
            break
        except KeyboardInterrupt:
            cuts += 1
    assert cuts == 3
    timings = {"run", "minutes", "peak_memory"}
    a, b = (
        {k: v for k, v in one.items() if k not in timings}
        for one in (whole.to_dict(), parts.to_dict())
    )
    assert a == b
    names = [files / name / WEIGHTS for name in ("whole", "parts")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_bytes_are_no_words_to_find(trained, files):
    for _ in range(2):  # what is refused is not in the way
        said = asked(trained, files, files / "run", "--find-words", 1)
        refused(said, "no token that is a word", "--patterns", code=2)


def test_it_goes_on_from_the_same_base_and_its_own_folders_alone(trained, files, monkeypatch):
    def stops(*given, **named):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("maquette.workshop.adapt_pet.train", stops)
        assert asked(trained, files, files / "run").code == 1
    tensors = load_tensors(trained / WEIGHTS)
    save_tensors(trained / WEIGHTS, {name: t + 1 for name, t in tensors.items()})
    said = asked(trained, files, files / "run", "--resume")
    refused(said, "begun with other weights", code=2)
    (files / "other-corpus").mkdir()
    (files / "other-corpus" / "manifest.json").touch()  # of a run that was deleted
    said = asked(trained, files, files / "other", "--resume")
    refused(said, "was not begun by this command", code=2)


def test_scores_by_pattern_are_those_of_the_learner(dataset):
    data, recipe = dataset
    model = recipe.model.build().initialise(1).eval()
    none = np.zeros(0, np.int64)
    view = PatternTexts(Pattern("{prompt} {word}"), {}, WORDS, [], [], [], none, none, 8)
    contexts = [(1, 2, 3), (4,)]
    with torch.no_grad():
        learner = label_scores(model, data.heldout()[0])
    assert torch.allclose(learner, torch.tensor(view.scores(model, contexts)).float(), atol=1e-4)
