"""What fuzzing begins with: one sound input for each target, made by the project's own writers."""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus")
MODEL: Final = CORPUS.parent / "model"
"""A packed model of a few hundred bytes of weights: `tiny-mlp` of the examples."""


@cache
def program_members() -> dict[str, bytes]:
    """Return the members of a sound program."""
    with zipfile.ZipFile(MODEL / "program.pt2") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def seeds() -> dict[str, tuple[bytes, ...]]:
    """Return what each target begins with."""
    from cw.models.program import MODEL_MEMBER
    from cw.rpc import schema

    call = schema.serving.InferCall.new_message()
    call.model, call.sloNs = "sums", 10**8
    (tensor,) = call.init("inputs", 1)
    tensor.name, tensor.datatype, tensor.data = "x", "fp32", bytes(16)
    tensor.shape = [2, 2]
    answer = schema.serving.Answer.new_message()
    answer.init("outputs", 1)[0] = bytes(16)
    binary = {
        "name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}
    }  # fmt: skip
    described = [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]},
        {"name": "n", "datatype": "INT8", "shape": [1], "data": [-7]},
    ]
    body = json.dumps({"inputs": described, "parameters": {"slo_ms": 100}}).encode()
    behind = json.dumps({"inputs": [binary, described[1]]}).encode()
    head = f"POST /v2/models/sums/infer HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n"
    # A Bootstrap, by hand: one segment of three words, ``Message.bootstrap`` of question 0.
    frame = bytes.fromhex("0000000005000000000000000100010008000000000000000000000001000000")
    frame += bytes(16)
    return {
        "messages": (b"\0" + call.to_bytes(), b"\1" + answer.to_bytes()),
        "frames": (frame, frame * 3),
        "connection": (frame, frame * 2),
        "bodies": (b"\0\0" + body, len(behind).to_bytes(2, "little") + behind + bytes(16)),
        "http": (head.encode() + body, b"GET /v2/health/live HTTP/1.1\r\nhost: h\r\n\r\n"),
        "archives": ((MODEL / "program.pt2").read_bytes(),),
        "graphs": (program_members()[MODEL_MEMBER],),
        "weights": ((MODEL / "weights.safetensors").read_bytes(),),
        "manifests": ((MODEL / "model.toml").read_bytes(),),
    }
