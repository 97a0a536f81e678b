"""All steps of a sequence in one launch: a program for each element, its traces in registers."""
