"""Hybrid linear attention: models, kernels and training loops behind the book."""

__version__ = "0.1.0"
