"""One step a launch, for traces that do not fit a program: rows of them in one pass, then the neurons of each element.

The unit of step k changes the traces by step k - 1 and then reads them for step k, so that a modulator which was
computed from step k - 1 is known; the backward unit is its adjoint, last line first.
"""
