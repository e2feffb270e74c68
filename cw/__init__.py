"""cw serves deep neural networks with predictable latency.

Each request carries its latency objective and is answered in one of two ways: by the
output before its deadline, or by a refusal at once that says why, and when it could have been.
"""

__version__ = "0.1.0"
