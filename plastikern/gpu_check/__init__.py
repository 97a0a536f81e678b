"""``python -m plastikern gpu-check``: everything that the first minutes on a card can tell, in one command.

Nothing here imports torch or anything of plastikern but itself: a torch that does not load is a fact to report. So
``python plastikern/gpu_check`` works where ``python -m plastikern`` does not.
"""
