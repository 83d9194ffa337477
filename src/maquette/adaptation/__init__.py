"""Adapting a trained model: which of its parameters change, and what is added to it."""
