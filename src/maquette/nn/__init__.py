"""Blocks: tensors in, tensors out. Nothing here knows what a corpus or a run is."""
