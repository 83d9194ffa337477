"""Worlds of questions: what is asked is made on the spot, and the right answer is exact."""
