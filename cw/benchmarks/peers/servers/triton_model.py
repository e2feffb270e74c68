"""Triton's python backend: ``model.py`` of each model in its repository, a process for each."""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

from typing import Any

import triton_python_backend_utils as backend
from network import Network
from served import Served


class TritonPythonModel:
    """One model; Triton's own name for the class."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model that the folder is named after."""
        self._network = Network.open(args["model_name"], Served.read())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute all requests that Triton's dynamic batcher put together, as one batch."""
        images = [
            backend.get_input_tensor_by_name(request, "image").as_numpy() for request in requests
        ]
        answers = self._network.compute([image.tobytes() for image in images])
        return [
            backend.InferenceResponse([backend.Tensor("logits", _array(answer))])
            for answer in answers
        ]


def _array(answer: bytes) -> Any:
    import numpy as np

    return np.frombuffer(answer, np.float32)[None]
