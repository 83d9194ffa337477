"""Prompts with their answers: records in, tokens with a loss mask out."""
