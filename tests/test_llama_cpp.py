"""llama.cpp itself reads our files: the same tokens, and log-probabilities within a tolerance.

llama.cpp runs inside this process (xllamacpp), at a port that the system chooses, and is asked by calls, not
through it.
"""

import json

import pytest
import torch
from test_gguf import SHAPES, TEXT, TOKENIZERS, exported, model_of

from maquette.models import families
from maquette.models.store import load_model
from maquette.serving.gguf import import_gguf

xllamacpp = pytest.importorskip(
    "xllamacpp", reason="llama.cpp is not installed: pip install 'maquette[llamacpp]'"
)
TOLERANCE = {
    "F32": 1e-3,
    "F16": 0.02,
    "BF16": 0.02,
    "Q8_0": 0.05,
    "Q6_K": 0.05,
    "Q4_K": 0.05,
    "Q4_0": 0.05,
}
"""nats of a log-probability between llama.cpp and the imported file; its products of few bits round the
activations to 8 bits, its GELU is a table in fp16"""
ASCII = 127


class LlamaCpp:
    """A file in llama.cpp, on one thread."""

    def __init__(self, path):
        p, kinds = xllamacpp.CommonParams(), xllamacpp.ggml_type
        p.model.path, p.offline, p.port, p.verbosity = str(path), True, 0, 0
        p.n_ctx, p.n_parallel, p.n_gpu_layers, p.n_threads_http = 64, 1, 0, 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        p.warmup = p.fit_params = p.ui = p.endpoint_slots = False
        p.cache_type_k = p.cache_type_v = kinds.GGML_TYPE_F32
        p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(p)

    def next(self, prompt, vocabulary=257):
        """The most likely next token that is a letter, and all log-probabilities."""
        request = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": vocabulary,
                   "cache_prompt": False,
                   "logit_bias": [[i, False] for i in range(ASCII, vocabulary)]}  # fmt: skip
        answer = self._server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        chosen = answer["choices"][0]["logprobs"]["content"][0]
        found = torch.full((vocabulary,), float("nan"))
        for row in chosen["top_logprobs"]:
            found[row["id"]] = row["logprob"]
        return chosen["id"], found


def calm(shape):
    """A model whose logits differ by some nats, and not by dozens."""
    model = model_of(SHAPES[shape])
    with torch.no_grad():
        model.norm.weight.mul_(0.25)
    return model


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_same_greedy_tokens(shape, tmp_path):
    model, written = calm(shape), list(b"Hello world, this is")
    # Its GELU is a table in fp16 (ggml_gelu), SwiGLU is not.
    tolerance = TOLERANCE["F32"] if shape.startswith("llama") else TOLERANCE["F16"]
    theirs = LlamaCpp(exported(model, tmp_path / "a.gguf"))
    for _ in range(8):
        token, found = theirs.next(written)
        wanted = model(torch.tensor([written]))[0, -1].log_softmax(-1)
        assert token == int(wanted[:ASCII].argmax())
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)
        written.append(token)


@pytest.mark.parametrize("kind", TOLERANCE)
@torch.no_grad()
def test_every_type_means_the_same_to_llama_cpp(kind, tmp_path):
    import_gguf(exported(calm("llama"), tmp_path / "a.gguf", kind), tmp_path / "back")
    wanted = load_model(tmp_path / "back")(torch.tensor([list(b"Hello world")]))[0, -1]
    _, found = LlamaCpp(tmp_path / "a.gguf").next(list(b"Hello world"))
    torch.testing.assert_close(found, wanted.log_softmax(-1), atol=TOLERANCE[kind], rtol=0)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_are_the_same_tokens_to_llama_cpp(name, tmp_path):
    """What follows a text is what follows our tokens of it, and not what follows others."""
    tokenizer = TOKENIZERS[name]()
    vocabulary = tokenizer.vocabulary
    config = families.llama(vocabulary=vocabulary, context=128, width=32, depth=1, heads=2)
    file = exported(model_of(config), tmp_path / "a.gguf", tokenizer=tokenizer)
    theirs = LlamaCpp(file)
    for text in (TEXT[:40], "the cat sat  é 123"):
        tokens = tokenizer.encode_prompt(text)
        _, found = theirs.next(text, vocabulary)
        _, wanted = theirs.next(tokens, vocabulary)
        _, other = theirs.next(tokens[1:], vocabulary)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0, equal_nan=True)
        assert (other - wanted).abs().nanmean() > 2e-4
