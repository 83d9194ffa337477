"""What the server knows of one request, from its first byte to the last of its answer."""

import contextlib
import time
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest

from maquette.serving.api.errors import ApiError
from maquette.serving.api.gate import admitted
from maquette.serving.api.limits import Account, Limits
from maquette.serving.api.run import Run
from maquette.serving.api.runs import Loaded, Runs, wrong_kind

REFUSED = {
    "anonymous": "a key is needed",
    "not_asked": "access was not asked for",
    "asked": "access was asked for, and is not decided yet",
    "rejected": "access was rejected",
    "revoked": "access was revoked",
    "damaged": "the record of who may use it cannot be read",
}
"""what a client is told by the word of `gate.admitted`"""


@dataclass
class Call:
    """A request that is answered. What it holds is freed by `ends`, whatever happens."""

    account: Account | None
    """account of the key; None: without keys"""
    limits: Limits
    begun: float = field(default_factory=time.monotonic)
    model: str = ""
    """name of the run that it uses"""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def admit(self, run: Run) -> None:
        """Raise ApiError (401, 403) where a gated run is not for this key."""
        name = None if self.account is None else self.account.key.name
        why = admitted(run.gates, name)
        if why is None:
            return
        status = 401 if why == "anonymous" else 403
        message = f"{run.name} is gated: {REFUSED[why]}"
        raise ApiError(status, message, code=f"gated_{why}", param="model")

    async def lease(self, runs: Runs, name: str, *kinds: str) -> Loaded:
        """The run of a name in memory until the answer's end; kinds: those that will do.

        Raises ApiError where there is none, the key may not use it, or it is of another kind.
        """
        run = runs.find(name)
        self.admit(run)
        if run.kind not in kinds:
            raise wrong_kind(run, " or ".join(kinds))
        self.model = run.name
        loaded = await runs.lease(run)
        self.ends.callback(runs.release, loaded)
        return loaded

    def reserve(self, prompt: int, longest: int) -> None:
        """Take tokens from the account; those of the answer that were not written go back at the end."""
        self.prompt_tokens += prompt
        account = self.account
        if account is not None:
            account.take(prompt + longest)
            before = self.answer_tokens
            self.ends.callback(
                lambda: account.give_back(max(0, longest - (self.answer_tokens - before)))
            )


async def call_of(request: HttpRequest) -> Call:
    """The call of a request; a coroutine, since FastAPI runs functions in threads of their own."""
    call: Call = request.scope["state"]["call"]
    return call
