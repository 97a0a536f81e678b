"""One step a launch, for traces that do not fit a program.

Where no neuron waits for another, a program has whole rows of traces and runs the step on them (``rowwise``). Else rows
of traces come in one pass, then the neurons of each element: the unit of step k changes the traces by step k - 1 and
then reads them for step k, so that a modulator which was computed from step k - 1 is known. The backward unit is the
adjoint of that one, last line first.
"""
