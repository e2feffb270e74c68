"""cw serves deep neural networks with predictable latency.

What a client needs is here: `connect` (Trio) and `connect_blocking` give a `Client`; its `infer`
gives a `Result`. They are imported when first named, so that servers do not pay for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cw.client import (
        BlockingClient,
        Client,
        Failed,
        Refused,
        Result,
        connect,
        connect_blocking,
    )

__version__ = "0.1.0"

__all__ = [
    "BlockingClient",
    "Client",
    "Failed",
    "Refused",
    "Result",
    "__version__",
    "connect",
    "connect_blocking",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cw' has no attribute {name!r}")
    return getattr(import_module("cw.client"), name)
