"""Megatron-LM and Turing-NLG: GPT-2 at 2.5 to 17 billion parameters, cut over devices.

    maquette plan megatron-8.3b --device V100 --devices 512
    maquette train megatron-2.5b --model.vocabulary 4096      (a cluster's work, not a laptop's)

Shoeybi et al. (2019) split every matrix of GPT-2 over 8 devices, which takes two sums a block
forward and two backward, and pad the vocabulary to 51,200 so that it splits too. Turing-NLG
(Rosset 2020) trains 17 billion parameters the same way on 4 with ZeRO (Rajbhandari et al. 2019)
over the rest. The recipes are those of the models that were trained: 300,000 steps of 512
sequences of 1,024 tokens, dropout 0.1. Two more sizes were only timed and stand in
`models/published.py`. There is no small member: it would be GPT-2 (`gpt2-char`). No claim is made.
"""

from maquette.experiments.decoder_recipes import published_recipes

RECIPES = published_recipes("megatron-2.5b", "megatron-8.3b", "turing-nlg-17b")
