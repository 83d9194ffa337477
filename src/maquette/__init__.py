"""Maquette: a workshop for foundation models, and a working scale model of every system of 2018-2023.

The Python face mirrors the command line and imports nothing heavy until it is used:

    import maquette

    run = maquette.train("tiny", run="runs/first")
    run.generate("def ", tokens=40)
    maquette.load("runs/first").model(tokens)  # logits (batch, time, vocabulary)
    maquette.plan(minutes=5)
    maquette.reproduce("gpt2")
"""

__version__ = "0.1.0"
