"""Log-likelihoods of many continuations: batched by length, a prefix that several share computed once.

    shots ---+--- question 1 ---+--- choice A        a node is run once, for all requests below it:
             |                  +--- choice B        its keys and values are laid before those of its
             +--- question 2 ---+--- choice A        children, whose rows are batched with those of
                                +--- choice B        others of the same depth

The inputs make a prefix tree; a branch is kept where it saves tokens enough. Rows of one batch may have
prefixes of different lengths: these are aligned on the right, so that distances (ALiBi, windows) are what
they are alone, positions are counted from each row's first token, and what pads on the left is a document
of its own that nothing sees. What pads on the right is seen by nothing before it. The numbers are those
of scoring one by one (tested for each kind of decoder). An architecture whose cache is not one of keys
and values (sMLP) is batched alone.

A request longer than the model's context loses its first tokens, as in lm-evaluation-harness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.models.base import LanguageModel
from maquette.nn.attention import LayerCache

SAVED, LONG = 16, 4  # tokens that a branch of the tree must save, and must have
DEPTH = 16  # branches one after the other
ROWS = 4096  # tokens of a batch
BYTES = 1 << 29  # of keys and values of a batch
POSITIONS = 1024  # projected to the vocabulary at a time


@dataclass(frozen=True)
class Request:
    """A continuation whose likelihood is asked, and the context it is given: tokens, one at least of each."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Likelihood:
    """What a model says of a continuation."""

    log_likelihood: float
    """sum of the tokens' log-probabilities in nats"""
    greedy: bool
    """whether every token is the likeliest in its place"""


@dataclass
class _Node:
    """Tokens start .. end of the inputs below it, after those of its parent."""

    start: int
    end: int
    inputs: list[int]
    """the inputs whose path leads through it"""
    children: list["_Node"] = field(default_factory=list)


@dataclass
class _Cached:
    """Keys and values of a path, layer by layer: (kv_heads, length, head_dim)."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int


def truncated(model: LanguageModel, requests: Sequence[Request]) -> int:
    """How many of the requests are longer than the context, and lose their first tokens."""
    most = model.config.context + 1
    return sum(len(r.context) + len(r.continuation) > most for r in requests)


def log_likelihoods(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Likelihood]:
    """The log-likelihood of every request, in their order.

    Raises UserError for a continuation that is longer than the model's context, and for a token that the
    model does not have.
    """
    scorer = _Scorer(model, requests, progress)
    scorer.run()
    return [
        Likelihood(total, greedy)
        for total, greedy in zip(scorer.totals.tolist(), scorer.greedy.tolist(), strict=True)
    ]


class _Scorer:
    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[Request],
        progress: Callable[[int, int], None],
    ) -> None:
        self._model, self._progress = model, progress
        self._device = model.device
        context, vocabulary = model.config.context, model.config.vocabulary
        known: dict[tuple[int, ...], int] = {}
        self._owners: list[list[tuple[int, int, int]]] = []
        """of every input: (request, the first position that predicts, the last token)"""
        for number, request in enumerate(requests):
            assert request.context and request.continuation, "a request has both parts"
            if len(request.continuation) > context:
                raise UserError(
                    f"an answer has {len(request.continuation)} tokens, more than the model's context of "
                    f"{context}: shorten it, or score it as a text (output_type loglikelihood_rolling)"
                )
            full = (request.context + request.continuation)[-(context + 1) :]
            if max(full) >= vocabulary:
                raise UserError(
                    f"a text holds token {max(full)}, and the model's vocabulary ends at "
                    f"{vocabulary - 1}: its tokenizer belongs to another model"
                )
            place = known.setdefault(full[:-1], len(known))
            if place == len(self._owners):
                self._owners.append([])
            first = len(full) - len(request.continuation) - 1
            self._owners[place].append((number, first, full[-1]))
        self._inputs = list(known)
        self.totals = torch.zeros(len(requests), dtype=torch.float64)
        self.greedy = torch.ones(len(requests), dtype=torch.bool)
        self._done = 0
        empty = model.cache(1, 0)
        plain = bool(empty) and all(isinstance(layer, LayerCache) for layer in empty)
        self._reuse = plain and model.attends_to_tokens_alone
        layers = sum(c.keys[0].numel() + c.values[0].numel() for c in model.cache(1, 1)
                     if isinstance(c, LayerCache))  # fmt: skip
        self._positions = max(1, BYTES // max(1, layers * model.compute.itemsize))

    @torch.inference_mode()
    def run(self) -> None:
        """Score everything."""
        self._model.eval()
        order = sorted(range(len(self._inputs)), key=lambda i: self._inputs[i])
        if self._reuse:
            roots = self._branches(order, 0, 0, DEPTH)
        else:
            roots = [_Node(0, len(self._inputs[i]), [i]) for i in order]
        self._descend([(node, None) for node in roots])

    def _branches(self, order: list[int], start: int, at: int, depth: int) -> list[_Node]:
        """The nodes after a path of `start` tokens, for sorted inputs that agree in `at` tokens.

        depth: how many may follow each other.
        """
        if not depth:
            return [_Node(start, len(self._inputs[i]), [i]) for i in order]
        nodes, groups = [], [(order, at)]
        while groups:
            order, at = groups.pop()
            i = 0
            if len(self._inputs[order[0]]) == at:  # an input that ends where the others go on
                nodes.append(_Node(start, at, order[:1]))
                i = 1
            while i < len(order):
                token, j = self._inputs[order[i]][at], i
                while j < len(order) and self._inputs[order[j]][at] == token:
                    j += 1
                part = order[i:j]
                i = j
                end = _common(self._inputs[part[0]], self._inputs[part[-1]], at)
                if len(part) == 1:
                    nodes.append(_Node(start, len(self._inputs[part[0]]), part))
                elif (len(part) - 1) * (end - start) < SAVED or end - start < LONG:
                    groups.append((part, end))
                else:
                    rest = part[len(self._inputs[part[0]]) == end :]
                    nodes.append(_Node(start, end, part, self._branches(rest, end, end, depth - 1)))
        return nodes

    def _descend(self, nodes: Sequence[tuple[_Node, _Cached | None]]) -> None:
        """Run nodes, batch by batch, and after each batch all that is below it."""
        nodes = sorted(nodes, key=lambda n: (n[0].end - n[0].start, n[0].start), reverse=True)
        first = 0
        while first < len(nodes):
            last, longest, past = first, 0, 0
            while last < len(nodes):
                node = nodes[last][0]
                longest = max(longest, node.end - node.start)
                past = max(past, node.start)
                rows = last - first + 1
                full = rows * longest > ROWS or rows * (past + longest) > self._positions
                if full and rows > 1:
                    break
                last += 1
            below = self._batch(nodes[first:last])
            if below:
                self._descend(below)
            first = last

    def _batch(self, nodes: list[tuple[_Node, _Cached | None]]) -> list[tuple[_Node, _Cached]]:
        """Run the nodes of one batch; returns their children, each with its past."""
        model = self._model
        longest = max(node.end - node.start for node, _ in nodes)
        tokens = torch.zeros(len(nodes), longest, dtype=torch.long)
        for row, (node, _) in enumerate(nodes):
            own = self._inputs[node.inputs[0]][node.start : node.end]
            tokens[row, : len(own)] = torch.tensor(own)
        tokens = tokens.to(self._device)
        prefixes = [past for _, past in nodes]
        offset = max(node.start for node, _ in nodes)
        if offset == 0 and not any(node.children for node, _ in nodes):
            self._score(nodes, model.hidden(tokens))
            return []
        cache: list[LayerCache] = model.cache(len(nodes), offset + longest)
        positions, document_ids = self._fill(cache, prefixes, offset, longest)
        self._score(
            nodes, model.hidden(tokens, positions=positions, document_ids=document_ids, cache=cache)
        )
        below = []
        for row, (node, _) in enumerate(nodes):
            if node.children:
                left, right = offset - node.start, offset + node.end - node.start
                past = _Cached(
                    [layer.keys[row, :, left:right] for layer in cache],
                    [layer.values[row, :, left:right] for layer in cache],
                    node.end,
                )
                below += [(child, past) for child in node.children]
        return below

    def _fill(
        self, cache: list[LayerCache], prefixes: list[_Cached | None], offset: int, longest: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Copy the keys and values of prefixes to the first `offset` positions of a cache, right-aligned.

        Returns positions (rows, longest) and document_ids (rows, offset + longest), None where all prefixes
        are of one length.
        """
        lengths = [0 if past is None else past.length for past in prefixes]
        one = prefixes[0]
        for number, layer in enumerate(cache):
            layer.length = offset
            if one is not None and all(past is one for past in prefixes):
                layer.keys[:, :, :offset] = one.keys[number]
                layer.values[:, :, :offset] = one.values[number]
                continue
            for row, past in enumerate(prefixes):
                left = offset - lengths[row]
                # What is not seen is multiplied by 0, and must be a number for that.
                layer.keys[row, :, :left] = 0
                layer.values[row, :, :left] = 0
                if past is not None:
                    layer.keys[row, :, left:offset] = past.keys[number]
                    layer.values[row, :, left:offset] = past.values[number]
        if all(length == offset for length in lengths):
            return None, None
        starts = torch.tensor(lengths, device=self._device)[:, None]
        positions = starts + torch.arange(longest, device=self._device)
        places = torch.arange(offset + longest, device=self._device)
        return (
            positions.clamp(max=self._model.config.context - 1),  # of what pads on the right
            (places >= offset - starts).long(),
        )

    def _score(self, nodes: list[tuple[_Node, _Cached | None]], hidden: Tensor) -> None:
        """Add what the positions of these nodes say to the requests below them."""
        asked: dict[tuple[int, int], int] = {}
        place, target, owner = [], [], []
        for row, (node, _) in enumerate(nodes):
            for i in node.inputs:
                tokens = self._inputs[i]
                for request, first, last in self._owners[i]:
                    for position in range(max(first, node.start), node.end):
                        key = (row, position - node.start)
                        place.append(asked.setdefault(key, len(asked)))
                        target.append(tokens[position + 1] if position + 1 < len(tokens) else last)
                        owner.append(request)
                if node.end == len(tokens):
                    self._done += len(self._owners[i])
        if asked:
            where = torch.tensor(list(asked), device=self._device)
            chosen = hidden[where[:, 0], where[:, 1]]  # (asked, width): only these are projected
            places, targets = torch.tensor(place), torch.tensor(target)
            owners = torch.tensor(owner)
            for first in range(0, len(chosen), POSITIONS):
                logits = self._model.logits(chosen[first : first + POSITIONS])
                here = (places >= first) & (places < first + POSITIONS)
                rows, wanted = (
                    (places[here] - first).to(self._device),
                    targets[here].to(self._device),
                )
                scores = logits.log_softmax(-1)[rows, wanted].double().cpu()
                self.totals.index_add_(0, owners[here], scores)
                right = (logits.argmax(-1)[rows] == wanted).cpu()
                self.greedy[owners[here][~right]] = False
        self._progress(self._done, len(self.totals))


def _common(a: tuple[int, ...], b: tuple[int, ...], at: int) -> int:
    """How many first tokens two inputs have in common, which agree in `at`."""
    most = min(len(a), len(b))
    if a[at:most] == b[at:most]:
        return most
    low, high = at, most  # a[:low] agrees, a[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
