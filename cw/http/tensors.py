"""Tensors in a request's JSON or behind it (the binary tensor extension), and back.

A body with the header ``inference-header-content-length: N`` begins with N bytes of JSON; behind
them lie, one after another, the data of the inputs that have ``binary_data_size`` among their
parameters. Such data are never copied or looked into here: a tensor is a view of the body. In
JSON, data are numbers in row-major order, nested by the shape or flat.

Source: the Open Inference Protocol, version 2, and Triton's binary tensor data extension.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cw.http.exchange import HttpError
from cw.messages import Datatype, Tensor, TensorSpec

_DATATYPES = {datatype.value: datatype for datatype in Datatype}


def read_tensor(described: Mapping[str, Any], binary: memoryview) -> tuple[Tensor, int]:
    """Read one input.

    Args:
        described: Its member of ``inputs``.
        binary: What of the body's binary part is left.

    Returns:
        The tensor, and how many bytes of `binary` are its data.

    Raises:
        HttpError: It is not described as the protocol says.
    """
    name, datatype = described.get("name"), described.get("datatype")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise HttpError(400, "expected each input to have the strings 'name' and 'datatype'")
    if datatype not in _DATATYPES:
        known = ", ".join(_DATATYPES)
        raise HttpError(
            400, f"input {name[:64]!r}: expected a datatype of {known}; got {datatype[:32]!r}"
        )
    shape = _shape(described, name)
    size = _parameters(described).get("binary_data_size")
    if size is None:
        data = _from_json(described, name, _DATATYPES[datatype], shape)
        return Tensor(name=name, datatype=datatype, shape=shape, data=data), 0
    if not _is_count(size) or size > len(binary):
        raise HttpError(
            400,
            f"input {name[:64]!r}: expected a binary_data_size of at most the {len(binary)} bytes "
            f"that are left behind the JSON, got {str(size)[:32]}",
        )
    return Tensor(name=name, datatype=datatype, shape=shape, data=binary[:size]), size


def json_data(spec: TensorSpec, data: bytes | memoryview) -> list[Any]:
    """Write an output's elements as JSON has them: flat, in row-major order.

    Raises:
        HttpError: There is an infinity or NaN among them, for which JSON has no word.
    """
    array = np.frombuffer(data, spec.datatype.numpy_name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise HttpError(
            500,
            f"output {spec.name!r} holds NaN or infinity, which JSON can't say; ask for it with "
            "binary_data",
        )
    values: list[Any] = array.tolist()
    return values


def _shape(described: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = described.get("shape")
    if not isinstance(shape, list) or len(shape) > 16 or not all(map(_is_count, shape)):
        raise HttpError(
            400, f"input {name[:64]!r}: expected a 'shape' of up to 16 integers, none negative"
        )
    return tuple(shape)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _parameters(described: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = described.get("parameters", {})
    if not isinstance(parameters, dict):
        raise HttpError(400, "expected 'parameters' to be an object")
    return parameters


def _from_json(
    described: Mapping[str, Any], name: str, datatype: Datatype, shape: tuple[int, ...]
) -> memoryview:
    """Turn numbers into little-endian elements; none is rounded, wrapped or cut in silence."""
    values = described.get("data")
    if not isinstance(values, list):
        raise HttpError(
            400, f"input {name[:64]!r}: expected 'data', or 'binary_data_size' in its parameters"
        )
    try:
        given = np.array(values)
    except ValueError as exc:
        raise HttpError(400, f"input {name[:64]!r}: expected data of one shape: {exc}") from exc
    wanted = np.dtype(datatype.numpy_name)
    fits = (
        given.size == 0
        or {
            "b": given.dtype.kind == "b",
            "f": given.dtype.kind in "iuf",
            "i": given.dtype.kind in "iu",
            "u": given.dtype.kind in "iu",
        }[wanted.kind]
    )
    if fits and wanted.kind in "iu" and given.size:
        bounds = np.iinfo(wanted)
        fits = bool(given.min() >= bounds.min and given.max() <= bounds.max)
    if not fits:
        raise HttpError(
            400, f"input {name[:64]!r}: expected numbers that {datatype.value} holds in its data"
        )
    if given.size != math.prod(shape) or given.shape not in ((given.size,), shape):
        raise HttpError(
            400,
            f"input {name[:64]!r}: expected {math.prod(shape)} elements, flat or nested as its "
            f"shape {list(shape)} says, got {given.size} in the shape {list(given.shape)[:16]}",
        )
    return np.ascontiguousarray(given, wanted).data.cast("B")
