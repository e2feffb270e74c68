"""Both ends of every conversation over Cap'n Proto, side by side.

A *stub* satisfies a port and calls a capability; a *gate* is that capability's server and calls the
actor that satisfies the same port. Actors see ports and messages only.
"""
