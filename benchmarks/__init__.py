"""Measurement of the library against eager PyTorch, torch.compile and JAX: ``python -m benchmarks --help``."""
