"""BentoML: one service, with an endpoint and so a batcher for each model.

A batcher knows the SLO (``max_latency_ms``) and refuses what it expects to be later.
"""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

import base64
from collections.abc import Callable
from typing import Any

import bentoml
from network import Network
from served import Served

SERVED = Served.read()


def _endpoint(name: str) -> Callable[..., Any]:
    def infer(self: Any, images: list[str]) -> list[str]:
        answers = self.networks[name].compute([base64.b64decode(image) for image in images])
        return [base64.b64encode(answer).decode() for answer in answers]

    infer.__name__ = f"infer_{SERVED.names.index(name)}"
    decorated: Callable[..., Any] = bentoml.api(
        infer,
        route=f"/{name}",
        batchable=True,
        max_batch_size=SERVED.batch_max,
        max_latency_ms=int(SERVED.slo_ms),
    )
    return decorated


def _load(self: Any) -> None:
    self.networks = {name: Network.open(name, SERVED) for name in SERVED.names}


Networks = bentoml.service(
    type(
        "Networks",
        (),
        {"__init__": _load} | {f"infer_{i}": _endpoint(n) for i, n in enumerate(SERVED.names)},
    ),
    workers=1,
)
