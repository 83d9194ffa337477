"""Tasks that a model is asked: files in lm-evaluation-harness' format, and tasks that are built in."""
