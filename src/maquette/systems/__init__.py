"""The catalogue: one file per published system. Adding a file here adds a system; nothing else changes.

`experiments/catalogue.py` says how systems are found, `experiments/claims.py` what a claim is.
"""
