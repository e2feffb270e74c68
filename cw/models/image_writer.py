"""Write ``weights.safetensors`` as a page-aligned image (``image.py`` says what that is).

Knows bytes and shapes, not torch: ``pack.py`` hands it buffers.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs

from cw.errors import ArchiveInvalid
from cw.models.image import (
    MAX_HEADER_BYTES,
    PAD_PREFIX,
    TENSOR_ALIGNMENT_BYTES,
    WIRE_DATATYPES,
    ImageLayout,
    TensorPlace,
)
from cw.models.manifest import IMAGE_ALIGNMENT_BYTES
from cw.units import div_ceil

_WIRE_NAMES: Final = {ours: (wire, size) for wire, (ours, size) in WIRE_DATATYPES.items()}


@attrs.frozen(kw_only=True)
class ImagePlan:
    """A header ready to be written, and the layout that it states.

    Weight sets of one architecture have one plan, so a plan is made once and used for many.
    """

    header: bytes
    layout: ImageLayout


def plan_image(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> ImagePlan:
    """Lay tensors out one after another, each at a multiple of 256.

    Args:
        tensors: (name, datatype, shape) in the order in which they shall lie.

    Raises:
        ArchiveInvalid: A name is used twice or is reserved, a datatype cannot be stored, or
            there are more tensors than a header can name.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, TensorPlace] = {}
    end = 0
    for name, datatype, shape in tensors:
        if name in entries or name.startswith(PAD_PREFIX):
            raise ArchiveInvalid(f"weights: tensor name {name!r} is used twice or is reserved")
        if datatype not in _WIRE_NAMES:
            raise ArchiveInvalid(
                f"weights: expected tensor {name!r} to have a datatype of "
                f"{', '.join(_WIRE_NAMES)}, got {datatype}"
            )
        wire, item_bytes = _WIRE_NAMES[datatype]
        start = _pad(entries, end, div_ceil(end, TENSOR_ALIGNMENT_BYTES) * TENSOR_ALIGNMENT_BYTES)
        nbytes = math.prod(shape) * item_bytes
        end = start + nbytes
        entries[name] = _entry(wire, shape, start, end)
        places[name] = TensorPlace(
            offset_bytes=start, nbytes=nbytes, datatype=datatype, shape=tuple(shape)
        )
    # A model without weights has an image of one page of padding: no bytes cannot be mapped.
    page_count = max(1, div_ceil(end, IMAGE_ALIGNMENT_BYTES))
    end = _pad(entries, end, page_count * IMAGE_ALIGNMENT_BYTES)
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % IMAGE_ALIGNMENT_BYTES)
    if len(header) > MAX_HEADER_BYTES:
        raise ArchiveInvalid(
            f"weights: expected a header of at most {MAX_HEADER_BYTES} bytes, got {len(header)}; "
            "use fewer tensors or shorter names"
        )
    layout = ImageLayout(
        data_start=8 + len(header), image_bytes=end, tensors=MappingProxyType(places)
    )
    return ImagePlan(header=struct.pack("<Q", len(header)) + header, layout=layout)


def write_image(path: Path, plan: ImagePlan, tensors: Mapping[str, memoryview]) -> str:
    """Write the file that ``plan`` describes.

    Args:
        path: Created; must not exist.
        plan: Names exactly the tensors given.
        tensors: The contents of each, as contiguous bytes in the host's order (little endian).

    Returns:
        The hex sha256 of the file.

    Raises:
        ArchiveInvalid: A tensor is missing, is not in the plan, or has another length.
        OSError: The file exists or cannot be written.
    """
    places = plan.layout.tensors
    if tensors.keys() != places.keys():
        differ = sorted(tensors.keys() ^ places.keys())
        raise ArchiveInvalid(
            f"weights: expected {len(places)} tensors, got {len(tensors)}; "
            f"missing or too many: {', '.join(differ[:8])}"
        )
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def emit(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        emit(plan.header)
        end = 0
        for name, place in places.items():
            data = tensors[name]
            if data.nbytes != place.nbytes:
                raise ArchiveInvalid(
                    f"weights: expected {place.nbytes} bytes of tensor {name!r} "
                    f"({place.datatype} {list(place.shape)}), got {data.nbytes}"
                )
            emit(bytes(place.offset_bytes - end))
            emit(data)
            end = place.offset_bytes + place.nbytes
        emit(bytes(plan.layout.image_bytes - end))
    return digest.hexdigest()


def _pad(entries: dict[str, Any], end: int, to: int) -> int:
    """Fill the bytes from ``end`` up to ``to``, which is returned."""
    if to > end:
        # Called after its position, so that its name depends on the shapes alone.
        entries[f"{PAD_PREFIX}{end}"] = _entry("U8", (to - end,), end, to)
    return to


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
