"""The papers' experiments, run with ``python -m experiments NAME``."""
