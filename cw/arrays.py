"""Arrays: numpy's as they cross the wire, and back.

Neighbours: `client.py` sends them, `messages/requests.py` has the tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cw.errors import RequestInvalid
from cw.messages import ModelSpec, Tensor

Array = np.ndarray[Any, np.dtype[Any]]

_DATATYPES: Final = {
    np.dtype(name): datatype
    for name, datatype in (
        ("bool", "BOOL"),
        ("uint8", "UINT8"),
        ("uint16", "UINT16"),
        ("uint32", "UINT32"),
        ("uint64", "UINT64"),
        ("int8", "INT8"),
        ("int16", "INT16"),
        ("int32", "INT32"),
        ("int64", "INT64"),
        ("float16", "FP16"),
        ("float32", "FP32"),
        ("float64", "FP64"),
    )
}


def to_tensors(inputs: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """Turn named arrays into what crosses the wire.

    Raises:
        RequestInvalid: It is no array, or its dtype has no counterpart on the wire.
    """
    tensors = []
    for name, array in inputs.items():
        try:
            array = np.asarray(array)
        except ValueError as exc:
            raise RequestInvalid(f"input {name!r}: expected an array of numbers: {exc}") from exc
        datatype = _DATATYPES.get(array.dtype.newbyteorder("="))
        if datatype is None:
            known = ", ".join(str(dtype) for dtype in _DATATYPES)
            raise RequestInvalid(f"input {name!r}: expected one of {known}; got {array.dtype}")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        data = little.reshape(-1).view(np.uint8).data
        tensors.append(Tensor(name=name, datatype=datatype, shape=array.shape, data=data))
    return tuple(tensors)


def to_arrays(spec: ModelSpec, outputs: Sequence[bytes | memoryview]) -> dict[str, Array]:
    """Turn an answer's buffers into named arrays, without a copy."""
    return {
        tensor.name: np.frombuffer(data, dtype=tensor.datatype.numpy_name).reshape(tensor.shape)
        for tensor, data in zip(spec.outputs, outputs, strict=True)
    }
