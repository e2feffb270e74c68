"""LOADs' copies: in pieces, few at a time, so that no other copy waits long behind them.

The copy engine takes copies in the order in which they were sent, whatever the streams' priorities;
so it is the sender who holds back.
"""

from typing import Final

from cw.devices.cuda.driver import CudaDriver


class PacedCopies:
    """The LOADs' stream. All calls come from the LOAD lane's thread.

    Args:
        driver: Whose card.
        chunk_bytes: Size of a piece.
        outstanding: So many pieces are with the card at once.
    """

    def __init__(self, driver: CudaDriver, *, chunk_bytes: int, outstanding: int) -> None:
        self._driver: Final = driver
        self._chunk_bytes: Final = chunk_bytes
        self._stream: Final = driver.stream(urgent=False)
        self._first: Final = driver.event(timing=True)
        self._last: Final = driver.event(timing=True)
        self._done: Final = [driver.event(timing=False) for _ in range(outstanding)]

    def copy(self, target: int, source: int, size_bytes: int) -> int:
        """Copy pinned host memory to the card, and wait for the end.

        Returns:
            How long the copies took, by the card's clock, in ns.

        Raises:
            DeviceFault: A copy failed.
        """
        driver, outstanding = self._driver, len(self._done)
        driver.record(self._first, self._stream)
        for number, offset in enumerate(range(0, size_bytes, self._chunk_bytes)):
            event = self._done[number % outstanding]
            if number >= outstanding:
                driver.wait(event)
            piece_bytes = min(self._chunk_bytes, size_bytes - offset)
            driver.copy_in(target + offset, source + offset, piece_bytes, self._stream)
            driver.record(event, self._stream)
        driver.record(self._last, self._stream)
        driver.wait(self._last)
        return driver.between_ns(self._first, self._last)

    def close(self) -> None:
        """Destroy the stream and its events; nothing is being copied."""
        for event in (self._first, self._last, *self._done):
            self._driver.drop_event(event)
        self._driver.drop_stream(self._stream)
