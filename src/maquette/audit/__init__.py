"""The audit station: what is in a corpus, and what of it is in a model."""
