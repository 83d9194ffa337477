"""Real picture runs behind the API: what comes back is the run's, and nothing is of the server's disk."""

import asyncio
import base64
import io
import threading

import numpy as np
import openai
import pytest
from picture_runs import small, untrained
from PIL import Image
from served import application, call, client, closed, run_of

from maquette.base.errors import UserError
from maquette.models.clip_config import ClipConfig
from maquette.models.prior_config import PriorConfig
from maquette.serving.api.run import PictureOrder, PicturesMade, Stopped
from maquette.training.datasets.picture_config import PictureData, PictureRecipe
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.picture_generation import make
from maquette.workshop.picture_request import Options
from maquette.workshop.serve import served_run, served_runs

RED = "a red circle"
FEW = {"steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Untrained runs of every kind."""
    folder = tmp_path_factory.mktemp("runs")

    def kept(name, model, **data):
        recipe = PictureRecipe(
            model=model, data=PictureData(image_size=model.image_size, caption_length=12, **data)
        )
        untrained(folder / name, recipe)

    sizes = {"width": 16, "depth": 1, "heads": 2, "vocabulary": 2048, "caption_length": 12}
    text = {"text_width": 16, "text_depth": 1, "text_heads": 2}
    kept("text", small())
    kept("clip", ClipConfig(image_size=16, embedding=8, **sizes, **text))
    encoder = {"encoder": str(folder / "clip")}
    kept("prior", PriorConfig(image_size=16, embedding=8, **sizes), **encoder)
    kept("decoder", small(embedding=8, condition="none"), **encoder)
    return folder


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    file.name = "picture.png"
    return file


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_are_those_of_the_run(folder):
    """Made, filled and varied; what a mask keeps is kept to the bit, and errors name no path."""
    names = ("text", "decoder", "prior", "clip")
    app = application(*served_runs([folder / name for name in names], []))
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hidden = (np.arange(16) >= 6).astype(np.uint8)[None].repeat(16, 0) * 255
    expected = make(
        load_pictures(folder / "text"), Options(prompts=(RED,), count=2, **FEW).request()
    )

    async def main():
        async with client(app) as api:
            made = await api.images.generate(model="text", prompt=RED, n=2, extra_body=FEW)
            filled = await api.images.edit(
                model="text", prompt=RED, image=png(picture), mask=png(hidden), extra_body=FEW
            )
            unclip = await api.images.generate(model="decoder", prompt=RED, extra_body=FEW)
            varied = await api.images.create_variation(
                model="decoder", image=png(picture), extra_body=FEW
            )
            wrong = []
            for body in ({"model": "text", "image": png(picture)},
                         {"model": "text", "image": io.BytesIO(b"no picture")},
                         {"model": "text", "image": png(picture), "mask": png(hidden[:5])},
                         {"model": "prior", "image": png(picture), "mask": png(hidden)}):  # fmt: skip
                with pytest.raises(openai.BadRequestError) as raised:
                    await api.images.edit(prompt=RED, **body)
                wrong.append(raised.value)
            classes = [
                await call(app, "/v1/images/generations", {"model": n, "prompt": "a"})
                for n in names[2:]
            ]
            return made, filled, unclip, varied, wrong, classes

    made, filled, unclip, varied, wrong, classes = asyncio.run(main())
    assert [pixels_of(one.b64_json).tolist() for one in made.data] == expected.pixels.tolist()
    (kept,) = filled.data
    assert (pixels_of(kept.b64_json)[:, :6] == picture[:, :6]).all()
    assert (pixels_of(kept.b64_json)[:, 6:] != picture[:, 6:]).any()
    assert pixels_of(unclip.data[0].b64_json).shape == pixels_of(varied.data[0].b64_json).shape
    for error in wrong:
        assert "/tmp" not in str(error) and str(folder) not in str(error), error
    assert [reply.error["code"] for reply in classes] == ["wrong_kind"] * 2


def test_a_picture_that_nobody_waits_for_is_left_off(folder):
    maker = served_run(folder / "text", {}).load()
    stopped = threading.Event()
    order = PictureOrder(prompt=RED, steps=200)
    seen = []

    def stops():
        seen.append(1)
        return len(seen) > 3

    with pytest.raises(Stopped):
        maker.make(order, stops)
    assert len(seen) == 4 and not stopped.is_set()  # at the next evaluation, not at the end


def test_more_pixels_than_a_side_may_have_are_refused(tmp_path):
    """However they are written: the number that is checked is the one that is used."""
    orders = []

    class Painter:
        def make(self, order, stopped):
            orders.append(order)
            return PicturesMade([b""], 16, 16, 1, [])

    app = application(run_of(tmp_path, Painter(), "painter", kind="pictures", about={}))

    async def main():
        async with client(app) as api:

            async def extend(pixels):
                await api.images.edit(
                    model="painter", prompt=RED, image=png(np.zeros((16, 16, 3), np.uint8)),
                    extra_body={"outpaint": f"right={pixels}"},
                )  # fmt: skip

            for pixels in ("000000001999999", "0000000001", "1025", "0", "-1", "9" * 5000):
                with pytest.raises(openai.BadRequestError, match="at most 1024 pixels"):
                    await extend(pixels)
            await extend("1024")

    asyncio.run(main())
    assert [order.outpaint for order in orders] == [{"right": 1024}]


def test_a_clip_embeds_captions_and_pictures(folder):
    loaded = load_pictures(folder / "clip")
    picture = np.zeros((16, 16, 3), np.uint8)
    url = f"data:image/png;base64,{base64.b64encode(png(picture).getvalue()).decode()}"
    app = application(served_run(folder / "clip", {}))

    async def main():
        async with client(app) as api:
            made = await api.embeddings.create(model="clip", input=[RED, url])
            wrong = [
                await call(app, "/v1/embeddings", {"model": "clip", "input": given})
                for given in (
                    "a long caption " * 9,
                    "data:image/png;base64,AAAA",
                    "data:image/png,x",
                    [[1]],
                )
            ]
            return made, wrong

    made, wrong = asyncio.run(main())
    expected = loaded.model.embed_captions(loaded.captions([RED]))[0].tolist()
    assert made.data[0].embedding == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(made.data[1].embedding) == pytest.approx(1, abs=1e-5)
    assert [reply.status for reply in wrong] == [400] * 4 and all(reply.error for reply in wrong)


def test_a_gate_on_the_clip_closes_the_decoder(folder, tmp_path):
    run = served_run(folder / "decoder", {})
    assert folder / "clip" in run.gates

    async def main():
        (folder / "clip" / "gate.yaml").touch()
        app = application(run)
        try:
            return await call(app, "/v1/images/generations", {"model": "decoder", "prompt": RED})
        finally:
            (folder / "clip" / "gate.yaml").unlink()
            await closed(app)

    assert asyncio.run(main()).status == 401


def test_what_has_nothing_to_serve_is_refused(tmp_path):
    from maquette.models.vit_config import ViTConfig

    model = ViTConfig(image_size=16, classes=(2,), width=16, depth=1, heads=2)
    recipe = PictureRecipe(model=model, data=PictureData(image_size=16))
    with pytest.raises(UserError, match="which classifies"):
        served_run(untrained(tmp_path / "vit", recipe), {})
    with pytest.raises(UserError, match="is no adapted run"):
        served_runs([tmp_path / "vit"], [tmp_path / "vit"])
