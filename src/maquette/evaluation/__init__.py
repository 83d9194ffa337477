"""The evaluation station: how good a model is, in numbers that can be compared."""
