"""/v1/models: the runs that are served. What a gated run is made of is not shown to who may not use it."""

from typing import Any

from maquette.serving.api.call import Call
from maquette.serving.api.errors import ApiError
from maquette.serving.api.gate import gated
from maquette.serving.api.run import Run
from maquette.serving.api.runs import Runs


def listed(call: Call, runs: Runs) -> dict[str, Any]:
    """All runs."""
    return {"object": "list", "data": [described(call, runs, run) for run in runs]}


def described(call: Call, runs: Runs, run: Run) -> dict[str, Any]:
    """A run as OpenAI's API has it, with what else a client may want to know under `maquette`."""
    closed = any(gated(folder) for folder in run.gates)
    own: dict[str, Any] = {"kind": run.kind, "gated": closed}
    try:
        call.admit(run)
        own |= {"loaded": runs.loaded(run.name) is not None, **run.about}
    except ApiError:
        pass
    return {
        "id": run.name,
        "object": "model",
        "created": int(run.created),
        "owned_by": "maquette",
        "maquette": own,
    }
