"""Training of the PP-YOLOE_plus_SOD network: batches, assignment, losses, schedule, checkpoints, the loop.

:mod:`assign`, :mod:`losses`, :mod:`average`, :mod:`checkpoint` and :mod:`loop` import Paddle; the others do not.
"""
