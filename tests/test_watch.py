"""The page's files and what it watches: content types, policies, gates, names that are no paths."""

import asyncio
import json
import re

import pytest
from page_server import Served
from picture_runs import small
from served import application, call, closed, run_of

from maquette.adaptation.adapters.config import LoRAConfig
from maquette.adaptation.adapters.store import Description
from maquette.base.errors import UserError
from maquette.experiments.watch import Trials, picture
from maquette.serving.api.gate import GATE
from maquette.serving.api.page import FOLDER, TYPES
from maquette.serving.api.watch import Watched
from maquette.training.datasets.picture_config import PictureData, PictureRecipe
from maquette.workshop.serve_page import Trainings, metrics

FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in TYPES)


@pytest.fixture
def served(tmp_path):
    return Served(tmp_path)


def get(served, path, **more):
    return asyncio.run(call(served.app, path, **more))


def test_the_page_comes_with_its_policy_and_its_types(served):
    for path in ["/", *(f"/page/{file.name}" for file in FILES)]:
        reply = get(served, path)
        policy = reply.headers["content-security-policy"]
        assert reply.status == 200 and "default-src 'self'" in policy and "unsafe" not in policy
        suffix = path[path.rfind(".") :] if "." in path else ".html"
        assert reply.headers["content-type"] == TYPES[suffix]
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/page/..%2fapi%2fpage.py", "/page/../api/page.py", "/page/%2e%2e/x", "/page/none.js"]
)
def test_no_path_of_a_request_reaches_another_file(served, path):
    assert get(served, path).status == 404


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_loads_nothing_from_elsewhere_and_reads_no_text_as_markup(path):
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
    assert not addresses
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc",
                "new Function", "createContextualFragment", "DOMParser"):  # fmt: skip
        assert way not in text
    assert not re.search(r"\son\w+=\"|\sstyle=\"", text)  # what the policy forbids in markup


def test_every_file_that_a_file_names_is_there():
    names = {path.name for path in FILES}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r'from "\./([\w.]+)"|"page/([\w.]+)"', text)) <= {
            pair for name in names for pair in ((name, ""), ("", name))
        }


def test_metrics_are_read_from_where_they_were_left(tmp_path):
    """Whole lines alone; what became shorter (a rewind, another run) is read from its beginning."""
    path = tmp_path / "metrics.jsonl"
    assert metrics(path, 7) == {"start": 0, "after": 0, "records": []}
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    first = metrics(path, 0)
    assert first == {"start": 0, "after": 24, "records": [{"step": 1}, {"step": 2}]}
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert metrics(path, 24)["records"] == [{"step": 3}]
    path.write_bytes(b'{"step": 1}\nbroken\n')
    assert metrics(path, 36) == {"start": 0, "after": 19, "records": [{"step": 1}]}


def begun(served, recipe):
    """The folder of a served run, made that of a training of one step."""
    folder = served.folder / "parrot"
    recipe.save(folder / "recipe.yaml")
    record = {"step": 1, "loss": 2.5, "tokens": 128, "seconds": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return folder


def test_trainings_are_those_beside_the_served_runs(served, recipe):
    folder = begun(served, recipe)
    (row,) = get(served, "/runs").json["runs"]
    assert (row["name"], row["step"], row["steps"], row["report"]) == ("parrot", 1, 12, False)
    assert str(served.folder) not in json.dumps(row)
    assert get(served, "/runs/parrot/metrics").json["records"][0]["loss"] == 2.5
    assert get(served, "/runs/parrot/report").status == 404
    (folder / "report.html").write_text("<script>1</script>", encoding="utf-8")
    reply = get(served, "/runs/parrot/report")
    assert reply.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in reply.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2fparrot", "nobody", "."])
def test_a_name_of_no_training_is_not_found(served, name):
    for what in ("metrics", "report"):
        assert get(served, f"/runs/{name}/{what}").status == 404


def test_a_gated_training_shows_its_name_alone(served, recipe):
    folder = begun(served, recipe)
    (folder / "report.html").write_bytes(b"secret")
    (folder / GATE).touch()
    assert get(served, "/runs").json["runs"] == [{"name": "parrot", "state": "gated"}]
    for what in ("metrics", "report"):
        assert get(served, f"/runs/parrot/{what}").status == 403


def test_a_training_is_behind_the_gates_of_what_it_is_made_of(tmp_path):
    """An adapter's base, whatever became of its weights, and a decoder's CLIP; gone: nobody sees it."""
    runs = Trainings([tmp_path / "any"])
    for name in ("base", "clip", "tuned", "decoder"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "model.safetensors").symlink_to(tmp_path / "none")  # no weights are read
    for name in ("tuned", "decoder"):
        recipe = PictureRecipe(
            model=small(embedding=8, condition="none"),
            data=PictureData(image_size=16, encoder=str(tmp_path / "elsewhere" / "clip")),
        )
        recipe.save(tmp_path / name / "recipe.yaml")
    Description(LoRAConfig(rank=2), str(tmp_path / "base"), "of another", 0).save(
        tmp_path / "tuned"
    )
    assert {name: set(one.gates) for name, one in runs().items()} == {
        "decoder": {tmp_path / "decoder", tmp_path / "clip"},
        "tuned": {tmp_path / "tuned", tmp_path / "base", tmp_path / "clip"},
    }
    app = application(run_of(tmp_path, None), watched=Watched(runs, lambda: [], lambda claim: None))
    (tmp_path / "clip" / GATE).touch()
    shown = [asyncio.run(call(app, "/runs")).json["runs"]]
    (tmp_path / "clip").rename(tmp_path / "moved")
    shown.append(asyncio.run(call(app, "/runs")).json["runs"])
    for rows, state in zip(shown, ("gated", "unreadable"), strict=True):
        assert sorted(rows, key=lambda row: row["name"]) == [
            {"name": name, "state": state} for name in ("decoder", "tuned")
        ]
        for name in ("decoder", "tuned"):
            assert asyncio.run(call(app, f"/runs/{name}/metrics")).status == 403
    asyncio.run(closed(app))


def test_a_server_that_is_open_to_others_starts_no_trial(tmp_path):
    nothing = Watched(trainings=Trainings([]), systems=lambda: [], picture=lambda claim: None)
    app = application(run_of(tmp_path, None), watched=nothing)
    reply = asyncio.run(call(app, "/trial", {"system": "gpt3"}))
    assert reply.status == 403
    assert asyncio.run(call(app, "/systems")).json == {"systems": [], "trials": False}


def test_a_trial_is_of_a_system_of_the_catalogue():
    with pytest.raises(UserError, match="unknown system"):
        Trials().start("--help")
    with pytest.raises(UserError, match="no claims"):
        Trials().start("decoders")


def test_a_picture_is_of_a_claim_of_the_catalogue(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "claims" / "gpt3.parameter-counts.png").write_bytes(b"picture")
    assert picture(tmp_path / "claims", "gpt3.parameter-counts") == b"picture"
    assert picture(tmp_path / "claims", "../secret") is None
