"""Adapters: small changes of a frozen model that are kept apart from it, by kind."""
