"""MLServer: a runtime of one's own with its adaptive batching, all models in one process."""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

import base64

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from network import Network
from served import Served


class NetworkRuntime(MLModel):
    """One model."""

    async def load(self) -> bool:
        """Load the model that the settings name."""
        self._network = Network.open(self.name, Served.read())
        return True

    async def unload(self) -> bool:
        """Let the weights go."""
        self._network.close()
        del self._network
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute what the batcher put together: as many rows as there are texts in the input."""
        texts = payload.inputs[0].data.root
        answers = self._network.compute([base64.b64decode(text) for text in texts])
        output = ResponseOutput(
            name="logits",
            shape=[len(answers), 1],
            datatype="BYTES",
            data=[base64.b64encode(answer).decode() for answer in answers],
        )
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
