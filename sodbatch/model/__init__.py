"""The PP-YOLOE_plus_SOD network, its weights, its export, and model folders.

Only :mod:`layers`, :mod:`backbone`, :mod:`encoder`, :mod:`neck`, :mod:`head` and :mod:`network`
import Paddle at their top; every other module here can be imported without it.
"""
