"""Python's garbage collector, kept away from actions.

A full collection walks all that lives: with torch loaded it takes tens of milliseconds, in which no
lane of the process starts anything. What lives after a PREPARE lives long, so it is taken out.
"""

import gc


def settle_garbage(*, anew: bool = False) -> None:
    """Collect now, in a PREPARE, and never look again at what survived.

    Args:
        anew: Look once more at all that survived before: something that lives long was dropped. A
            program's graph is a cycle, which nothing else would ever free.
    """
    if anew:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
