"""LitServe: one queue for all models; a request that waits longer than the SLO is answered 504."""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

import base64
from typing import Any

import litserve
from network import Network, compute_mixed
from served import Served


class Networks(litserve.LitAPI):
    """All models behind one path."""

    def setup(self, device: str) -> None:
        """Load the models, in the process that computes."""
        served = Served.read()
        self._networks = {name: Network.open(name, served) for name in served.names}

    def decode_request(self, request: dict[str, str], **_: Any) -> tuple[str, bytes]:
        """Read a body."""
        return request["model"], base64.b64decode(request["image"])

    def batch(self, inputs: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Leave them as they are: they may be for several models."""
        return inputs

    def predict(self, x: list[tuple[str, bytes]], **_: Any) -> list[bytes]:
        """Compute what the batcher put together."""
        return compute_mixed(self._networks, x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """They are apart already."""
        return output

    def encode_response(self, output: bytes, **_: Any) -> dict[str, str]:
        """Write a body."""
        return {"logits": base64.b64encode(output).decode()}


if __name__ == "__main__":
    SERVED = Served.read()
    api = Networks(max_batch_size=SERVED.batch_max, batch_timeout=SERVED.batch_wait_ms / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", timeout=SERVED.slo_ms / 1e3)
    server.run(host="127.0.0.1", port=SERVED.port, generate_client_file=False, log_level="warning")
