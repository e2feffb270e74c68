"""Python's garbage collector, kept away from actions.

A full collection walks all that lives: with torch loaded it takes tens of milliseconds, in which no
lane of the process starts anything. What lives after a PREPARE lives long, so it is taken out.
"""

import gc


def settle_garbage() -> None:
    """Collect now, in a PREPARE, and never look again at what survived."""
    gc.collect()
    gc.freeze()
