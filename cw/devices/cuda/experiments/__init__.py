"""Experiments that settle, on a real card, what the cuda device assumes: see docs/gpu.md.

One file per experiment: `run(rig)` measures and returns figures, `verdict(figures)` is pure and
says which way of doing things they speak for. `suite.py` lists them, `command.py` runs them.
"""
