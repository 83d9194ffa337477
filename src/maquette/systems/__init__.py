"""The catalogue: one file per published system. Adding a file here adds a system; nothing else
changes (see `catalogue.py` for how they are found, `claims.py` for what a claim is)."""
