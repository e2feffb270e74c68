"""How each server is asked over HTTP, and how its answer is read.

All models here take one float32 image and give one float32 vector. Bodies are made once for each
image, before the load; only what says how much time is left is put in at the sending.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs
import numpy as np

from cw.client import Array
from cw.messages import ModelSpec, Timing
from cw.units import MS, US

Headers = tuple[tuple[str, str], ...]


@attrs.frozen
class HttpCall:
    """One request, as it goes out."""

    target: str
    headers: Headers
    body: bytes


@attrs.frozen
class Read:
    """One answer's body, understood."""

    logits: Array
    timing: Timing | None = None
    """What the server itself says of the time."""


class Format(Protocol):
    """Writes requests and reads answers."""

    def write(self, model: str, image: Array, *, left_ns: int) -> HttpCall:
        """Ask for one inference.

        Args:
            model: Its name.
            image: One sample, float32.
            left_ns: Until the deadline; formats that can't tell the server leave it out.
        """
        ...

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> Read:
        """Read an answer of status 200.

        Raises:
            ValueError: It is not in this format.
        """
        ...


class BinaryTensors:
    """The Open Inference Protocol with binary tensors: Triton, and cw's HTTP door.

    Args:
        spec: What the models have in common.
    """

    def __init__(self, spec: ModelSpec) -> None:
        shape = [1, *spec.inputs[0].shape]
        described = {
            "name": spec.inputs[0].name,
            "datatype": "FP32",
            "shape": shape,
            "parameters": {"binary_data_size": spec.inputs[0].size_bytes},
        }
        output = {"name": spec.outputs[0].name, "parameters": {"binary_data": True}}
        text = json.dumps({"inputs": [described], "outputs": [output]}, separators=(",", ":"))
        self._head: Final = text[:-1] + ',"parameters":{"timeout":'

    def write(self, model: str, image: Array, *, left_ns: int) -> HttpCall:
        """See `Format`."""
        head = f"{self._head}{max(1, left_ns // US)}}}}}".encode()
        headers = (
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", str(len(head))),
        )
        return HttpCall(f"/v2/models/{model}/infer", headers, head + image.tobytes())

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> Read:
        """See `Format`."""
        split = int(headers.get(b"inference-header-content-length", len(body)))
        said = json.loads(body[:split]).get("parameters", {})
        timing = None
        if "device_ms" in said:  # cw's
            timing = Timing(
                total_ns=round(said["total_ms"] * MS),
                device_ns=round(said["device_ms"] * MS),
                predicted_ns=round(said["predicted_ms"] * MS),
                batch_size=said["batch_size"],
            )
        return Read(np.frombuffer(body, np.float32, offset=split), timing)


class TextTensors:
    """JSON that holds the image's bytes as base64: servers that take no raw bytes.

    Args:
        target: The path for a model.
        wrap: Makes a body of the model's name and the image in base64.
        unwrap: Finds the output in an answer, in base64.
    """

    def __init__(
        self,
        target: Callable[[str], str],
        wrap: Callable[[str, str], object],
        unwrap: Callable[[object], str],
    ) -> None:
        self._target: Final = target
        self._wrap: Final = wrap
        self._unwrap: Final = unwrap
        self._made: Final[dict[tuple[str, int], tuple[Array, bytes]]] = {}
        """By model and the image's identity; the image is kept, so that this stays its own."""

    def write(self, model: str, image: Array, *, left_ns: int) -> HttpCall:
        """See `Format`; `left_ns` is not told."""
        key = (model, id(image))
        if key not in self._made:
            text = base64.b64encode(image.tobytes()).decode()
            self._made[key] = (image, json.dumps(self._wrap(model, text)).encode())
        headers = (("content-type", "application/json"),)
        return HttpCall(self._target(model), headers, self._made[key][1])

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> Read:
        """See `Format`."""
        try:
            text = self._unwrap(json.loads(body))
        except (KeyError, IndexError, TypeError) as exc:
            raise ValueError(f"expected an output in base64, got {body[:200]!r}") from exc
        return Read(np.frombuffer(base64.b64decode(text), np.float32))


class RawBytes:
    """The image's bytes and nothing else; a header names the model: Ray Serve."""

    def write(self, model: str, image: Array, *, left_ns: int) -> HttpCall:
        """See `Format`; `left_ns` is not told."""
        return HttpCall("/", (("serve_multiplexed_model_id", model),), image.tobytes())

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> Read:
        """See `Format`."""
        return Read(np.frombuffer(body, np.float32))
