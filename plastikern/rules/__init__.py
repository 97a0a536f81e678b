"""Plasticity rules: each defined once, as functions of torch, and everything else derived from there."""

from . import operations as operations  # which gives symbols their operators
