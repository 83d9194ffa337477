"""lm-evaluation-harness asks a run its own tasks: a model of the harness, by the name `maquette`.

    python -m maquette.workshop.harness --model maquette --model_args run=runs/first --tasks hellaswag

is the harness' own command with that model known to it (the harness finds no models of others by itself); in
Python, importing this file makes it known. Needs the extra `harness`. Requests are batched and their
common beginnings run once, as in `maquette eval`.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from maquette.base.errors import UserError, WrongUse, need
from maquette.evaluation.encoding import PairEncoder, rolling_requests
from maquette.evaluation.generation import generate_answers
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.workshop.load import load

need("lm_eval.models", "harness")  # the harness makes its own known only where none is yet
_registered: Callable[[Any], Any] = need("lm_eval.api.registry", "harness").register_model(
    "maquette"
)
_LM: Any = need("lm_eval.api.model", "harness").LM
IGNORED = ("batch_size", "max_batch_size", "device")
"""what the harness says to every model, and a run does not need"""


@_registered
class MaquetteLM(_LM):  # type: ignore[misc]
    """A run as the harness asks it. run: its directory."""

    def __init__(self, run: str = "", **others: Any) -> None:
        super().__init__()
        unknown = [name for name in others if name not in IGNORED]
        if not run or unknown:
            raise WrongUse(
                f"model_args {', '.join(unknown) or 'name no run'}: write --model_args run=DIRECTORY"
            )
        self._loaded = load(run)

    @property
    def tokenizer_name(self) -> str:
        """What the harness names cached requests by."""
        return str(self._loaded.path.resolve()).replace("/", "_")

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each (context, continuation)."""
        encode = PairEncoder(self._loaded.tokenizer)
        found = log_likelihoods(self._loaded.model, [encode(*request.args) for request in requests])
        return [(one.log_likelihood, one.greedy) for one in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of each text."""
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        windows: list[Request] = []
        owner: list[int] = []
        for number, request in enumerate(requests):
            tokens = tokenizer.encode(request.args[0])
            own = list(rolling_requests(tokens, tokenizer.special.start, model.config.context))
            windows += own
            owner += [number] * len(own)
        totals = [0.0] * len(requests)
        for number, one in zip(owner, log_likelihoods(model, windows), strict=True):
            totals[number] += one.log_likelihood
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its stop strings."""
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        for chosen in groups.values():
            kwargs = dict(requests[chosen[0]].args[1])
            until = kwargs.pop("until", None) or []
            texts, _ = generate_answers(
                self._loaded.model,
                self._loaded.tokenizer,
                [requests[i].args[0] for i in chosen],
                kwargs,
                until=[until] if isinstance(until, str) else until,
            )
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
        return answers


def main() -> None:
    """The harness' own command, to which this model is known."""
    try:
        need("lm_eval.__main__", "harness").cli_evaluate()
    except UserError as error:
        print(f"maquette: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
