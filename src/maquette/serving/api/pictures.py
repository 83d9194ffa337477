"""/v1/images: pictures of prompts, pictures with a part made anew, pictures like others."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from maquette.base.errors import WrongUse
from maquette.models.diffusion.drawing import SOLVERS
from maquette.serving.api.bodies import Pictures
from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.metrics import Metrics
from maquette.serving.api.run import PictureOrder, PicturesMade, Stopped
from maquette.serving.api.runs import Runs
from maquette.serving.api.sse import reply

SIDES = ("left", "right", "top", "bottom")
MOST_PIXELS = 1024  # of a side that is added
MOST_DIGITS = len(str(MOST_PIXELS))


async def generate(call: Call, runs: Runs, metrics: Metrics, body: Pictures) -> Response:
    """Pictures of a prompt."""
    return await _made(call, runs, metrics, body, PictureOrder())


async def edit(call: Call, runs: Runs, metrics: Metrics, form: FormData) -> Response:
    """A picture with a part made anew, continued on some sides, or enlarged by a run that does that.

    Without a mask its transparent part is made anew.
    """
    body = body_of(form)
    picture = await _file(form, "image")
    if picture is None:
        raise ApiError(400, "there is no image", param="image")
    sides = _sides(form.get("outpaint"))
    mask = await _file(form, "mask")
    if mask is None and not sides and runs.find(body.model).about.get("task") != "upsample":
        mask = picture
    order = PictureOrder(picture=picture, mask=mask, outpaint=sides)
    return await _made(call, runs, metrics, body, order)


async def vary(call: Call, runs: Runs, metrics: Metrics, form: FormData) -> Response:
    """Pictures like a picture, or on the way from it to another (toward)."""
    body = body_of(form)
    picture = await _file(form, "image")
    if picture is None:
        raise ApiError(400, "there is no image", param="image")
    order = PictureOrder(vary=picture, toward=await _file(form, "toward"))
    return await _made(call, runs, metrics, body, order)


def body_of(form: FormData) -> Pictures:
    """The fields of a form that are no files. Raises ApiError."""
    fields = {name: value for name, value in form.items() if isinstance(value, str) and value}
    try:
        return Pictures.model_validate(fields, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ApiError(400, f"{name}: {first['msg']}", param=name) from error


async def _made(
    call: Call, runs: Runs, metrics: Metrics, body: Pictures, order: PictureOrder
) -> Response:
    limits, count = call.limits, body.n or 1
    if count > limits.pictures:
        raise ApiError(400, f"n is {count}: ask for at most {limits.pictures}", param="n")
    if body.steps is not None and body.steps > limits.steps:
        raise ApiError(400, f"steps is {body.steps}: use at most {limits.steps}", param="steps")
    if body.response_format == "url":
        raise ApiError(
            400, "pictures come as b64_json: there are no addresses", param="response_format"
        )
    if body.solver is not None and body.solver not in SOLVERS:
        raise ApiError(400, f"solver: use {', '.join(SOLVERS)}", param="solver")
    run = runs.find(body.model)
    priors = [one.name for one in runs if one.kind == "prior"]
    prior = body.prior
    if prior is None and order.picture is None and order.vary is None and len(priors) == 1:
        prior = priors[0] if run.about.get("condition") == "embedding" else None
    order = replace(
        order,
        prompt=body.prompt or "",
        count=count,
        seed=int(time.time_ns() % (1 << 31)) if body.seed is None else body.seed,
        solver=body.solver,
        steps=body.steps,
        guidance=body.guidance,
        prior=_other(call, runs, prior),
        upsample=_other(call, runs, body.upsample),
    )
    loaded = await call.lease(runs, run.name, "pictures")
    size = run.about.get("image_size")
    if body.size not in (None, "auto", f"{size}x{size}"):
        raise ApiError(400, f"the pictures of {run.name} are {size}x{size}", param="size")
    maker: Any = loaded.opened
    begun = time.monotonic()
    made = await _until_gone(call, loaded.jobs.call, lambda stop: maker.make(order, stop.is_set))
    metrics.pictures(run.name, len(made.png))
    return reply(
        {
            "created": int(time.time()),
            "data": [{"b64_json": base64.b64encode(png).decode()} for png in made.png],
            "output_format": "png",
            "size": f"{made.width}x{made.height}",
            "seed": order.seed,
            "notes": made.notes,
            "evaluations": made.evaluations,
            "milliseconds": round(1e3 * (time.monotonic() - begun), 1),
        }
    )


async def _until_gone(
    call: Call,
    do: Callable[[Callable[[], PicturesMade]], Any],
    make: Callable[[threading.Event], PicturesMade],
) -> PicturesMade:
    """What a job gives; it leaves off at its next evaluation where the client goes or time is up."""
    stop = threading.Event()
    try:
        async with asyncio.timeout(call.limits.answer_seconds):
            made: PicturesMade = await do(lambda: make(stop))
            return made
    except TimeoutError as error:
        message = f"the pictures were not finished within {call.limits.answer_seconds:g} seconds"
        raise ApiError(504, message, code="timeout") from error
    except Stopped as error:
        raise ApiError(503, "the pictures were left off", code="stopped") from error
    finally:
        stop.set()


def _other(call: Call, runs: Runs, name: str | None) -> Path | None:
    """The folder of another run that takes part, which the key must be allowed to use, too."""
    if name is None:
        return None
    run = runs.find(name)
    call.admit(run)
    return run.folder


def _sides(given: Any) -> dict[str, int]:
    """Pixels by side of such as "right=64,left=32"."""
    if not isinstance(given, str) or not given:
        return {}
    sides = {}
    for part in given.split(","):
        side, _, pixels = part.partition("=")
        number = int(pixels) if pixels.isdecimal() and len(pixels) <= MOST_DIGITS else 0
        if side not in SIDES or not 1 <= number <= MOST_PIXELS:
            raise WrongUse(
                f"outpaint has {part[:40]!r}: write such as right=64, of at most {MOST_PIXELS} pixels"
            )
        sides[side] = number
    return sides


async def _file(form: FormData, name: str) -> bytes | None:
    """The file of a form; the first where there are several."""
    given = form.get(name) or form.get(f"{name}[]")
    if given is None:
        return None
    if not isinstance(given, UploadFile):
        raise ApiError(400, f"{name} is no file", param=name)
    return await given.read()
