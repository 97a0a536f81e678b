"""The fused operators in Triton: for GPUs without nvcc, and for AMD's. Nothing here is imported before the first call.

A folder for each form of the kernels: ``sequence`` runs all steps of an element in one launch, its traces in the
registers of one program; ``step`` runs one step a launch, rows of traces at a time, for traces that do not fit.
Launches that come again are replayed as CUDA graphs.
"""
