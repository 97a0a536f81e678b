"""Fused operators: thin autograd functions over the native library's ops."""
