"""Who may use the card: an INFER, or an edit of its page tables; they take turns.

Mapping or unmapping one model's pages while another's kernels run has been seen to fail on some
cards. So an edit waits for the end of the INFER that runs, and the next INFER for the edit.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock between two threads that neither can take twice while the other waits."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._card = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the card, and hold it."""
        # A bare lock is not fair: a lane that is always busy would take it again at once. Whoever
        # waits for the card holds the door, so the other one can't overtake.
        with self._door:
            self._card.acquire()
        try:
            yield
        finally:
            self._card.release()
