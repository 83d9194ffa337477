"""Worlds: scenes whose truth is known, with their pictures and their captions."""
