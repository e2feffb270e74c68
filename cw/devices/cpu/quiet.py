"""What keeps a thread that computes undisturbed: by torch's threads, by numbers near zero."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Set what holds for the calling thread only.

    Args:
        threads: Torch's threads for one operator.
    """
    torch.set_num_threads(threads)
    # Numbers near zero would take a hundred times longer than others, in some inputs.
    torch.set_flush_denormal(True)
    with torch.inference_mode():
        yield
