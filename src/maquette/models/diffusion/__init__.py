"""Diffusion models of pictures: process, network and conditioners, and how they are sampled."""
