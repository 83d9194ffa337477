"""The training station: a recipe and a corpus in, a run out."""
