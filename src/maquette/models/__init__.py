"""Whole architectures, one file each, built from the blocks of `nn`."""
