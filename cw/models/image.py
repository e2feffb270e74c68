"""``weights.safetensors``: a safetensors file whose data section is a page-aligned image.

An image is what LOAD copies, without looking inside: one run of bytes that starts at a page
boundary of the file, in which every tensor starts at a multiple of 256. The safetensors format
forbids holes, so tensors called ``__pad.N`` fill them, and any reader of safetensors can read
an image.

The file comes from outside, so nothing in its header is believed: this module is the only one
that parses it, and raises nothing but ``ArchiveInvalid`` for whatever bytes it is given.
``image_writer.py`` makes such files.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Final, Self

import attrs

from cw.errors import ArchiveInvalid
from cw.models.files import open_regular
from cw.models.manifest import IMAGE_ALIGNMENT_BYTES, MAX_IMAGE_BYTES

TENSOR_ALIGNMENT_BYTES: Final = 256
"""What CUDA's own allocator gives, so kernels choose the same vector loads as elsewhere."""

PAD_PREFIX: Final = "__pad."
"""Tensors of this name are holes. No tensor of a program may begin with it."""

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
"""Room for MAX_TENSOR_COUNT entries; the format's own bound is 100 MB."""

MAX_FILE_BYTES: Final = 8 + MAX_HEADER_BYTES + MAX_IMAGE_BYTES
MAX_TENSOR_COUNT: Final = 65_536
MAX_TENSOR_NAME_CHARS: Final = 512
MAX_TENSOR_DIMS: Final = 16

REPACK: Final = "repack it with `cw model pack`"

_LENGTH: Final = struct.Struct("<Q")

WIRE_DATATYPES: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "BOOL": ("BOOL", 1),
        "U8": ("UINT8", 1),
        "U16": ("UINT16", 2),
        "U32": ("UINT32", 4),
        "U64": ("UINT64", 8),
        "I8": ("INT8", 1),
        "I16": ("INT16", 2),
        "I32": ("INT32", 4),
        "I64": ("INT64", 8),
        "F16": ("FP16", 2),
        "BF16": ("BF16", 2),
        "F32": ("FP32", 4),
        "F64": ("FP64", 8),
    }
)
"""The safetensors names of datatypes -> (ours, bytes per element)."""


@attrs.frozen(kw_only=True)
class TensorPlace:
    """Where one tensor lies in an image.

    Attributes:
        offset_bytes: From the start of the image (not of the file); a multiple of 256.
        nbytes: Length; the shape times the datatype's size.
        datatype: The Open Inference Protocol's name. A string and not a ``Datatype``, since weights
            may be BF16, which no input or output may be.
        shape: Extents; the layout is contiguous, last dimension fastest.
    """

    offset_bytes: int
    nbytes: int
    datatype: str
    shape: tuple[int, ...]


@attrs.frozen(kw_only=True)
class ImageLayout:
    """A checked header.

    Attributes:
        data_start: Offset of the image in the file, in bytes; a multiple of 4096.
        image_bytes: Length of the image; a multiple of 4096. The file ends where it ends.
        tensors: By name, in the order of their offsets; pads are left out.
    """

    data_start: int
    image_bytes: int
    tensors: Mapping[str, TensorPlace]


def read_layout(file: BinaryIO, file_bytes: int) -> ImageLayout:
    """Read and check the header of an open file.

    Args:
        file: Read from its start; left somewhere after it.
        file_bytes: The file's whole size.

    Returns:
        The layout, every statement of which is true of a file of this size.

    Raises:
        ArchiveInvalid: The file is no safetensors file, lies about itself, or is not aligned.
    """
    file.seek(0)
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise ArchiveInvalid(f"weights: expected a safetensors file, got {file_bytes} bytes")
    (header_bytes,) = _LENGTH.unpack(prefix)
    data_start = _LENGTH.size + header_bytes
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        raise ArchiveInvalid(
            f"weights: expected a header of 2 to {MAX_HEADER_BYTES} bytes, got {header_bytes}"
        )
    if data_start > file_bytes:
        raise ArchiveInvalid(
            f"weights: the header should end at byte {data_start}, the file has {file_bytes}: "
            "it was cut short; upload it again"
        )
    image_bytes = file_bytes - data_start
    if not 0 < image_bytes <= MAX_IMAGE_BYTES:
        raise ArchiveInvalid(
            f"weights: expected 1 to {MAX_IMAGE_BYTES} bytes of data, got {image_bytes}"
        )
    if data_start % IMAGE_ALIGNMENT_BYTES or image_bytes % IMAGE_ALIGNMENT_BYTES:
        raise ArchiveInvalid(
            f"weights: expected data that starts and ends at a multiple of "
            f"{IMAGE_ALIGNMENT_BYTES}, got {image_bytes} bytes at {data_start}; {REPACK}"
        )
    header = file.read(header_bytes)
    if len(header) != header_bytes:
        raise ArchiveInvalid(f"weights: header cut short at {len(header)} of {header_bytes} bytes")
    return ImageLayout(
        data_start=data_start,
        image_bytes=image_bytes,
        tensors=MappingProxyType(_check_tensors(_parse_header(header), image_bytes)),
    )


def _parse_header(header: bytes) -> dict[str, Any]:
    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=_no_duplicates)
    # ValueError covers bad UTF-8, bad JSON and ints too long to read; RecursionError, nesting.
    except (ValueError, RecursionError) as exc:
        raise ArchiveInvalid(f"weights: expected a JSON header, got an error: {exc}") from exc
    if not isinstance(document, dict):
        raise ArchiveInvalid(
            f"weights: expected a header that is a JSON object, got {type(document).__name__}"
        )
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ArchiveInvalid("weights: expected __metadata__ to map strings to strings")
    if len(document) > MAX_TENSOR_COUNT:
        raise ArchiveInvalid(
            f"weights: expected at most {MAX_TENSOR_COUNT} tensors, got {len(document)}"
        )
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; two readers may pick different ones of a repeated key."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is given twice")
    return table


def _check_tensors(document: dict[str, Any], image_bytes: int) -> dict[str, TensorPlace]:
    """Check that the entries tile the image from start to end, in order."""
    tensors: dict[str, TensorPlace] = {}
    end = 0
    for name, entry in document.items():
        place = _check_entry(name, entry)
        if place.offset_bytes != end:
            raise ArchiveInvalid(
                f"weights: tensor {name!r} should start at {end}, where the one before it ends, "
                f"but starts at {place.offset_bytes}; {REPACK}"
            )
        end += place.nbytes
        if end > image_bytes:
            raise ArchiveInvalid(
                f"weights: tensor {name!r} ends at {end}, after the end of the data "
                f"at {image_bytes}: the file was cut short or lies"
            )
        if name.startswith(PAD_PREFIX):
            continue
        if place.offset_bytes % TENSOR_ALIGNMENT_BYTES:
            raise ArchiveInvalid(
                f"weights: tensor {name!r} should start at a multiple of "
                f"{TENSOR_ALIGNMENT_BYTES}, but starts at {place.offset_bytes}; {REPACK}"
            )
        tensors[name] = place
    if end != image_bytes:
        raise ArchiveInvalid(
            f"weights: the tensors end at {end}, the data at {image_bytes}: {REPACK}"
        )
    return tensors


def _check_entry(name: str, entry: object) -> TensorPlace:
    if not 1 <= len(name) <= MAX_TENSOR_NAME_CHARS or not name.isprintable():
        raise ArchiveInvalid(
            f"weights: expected tensor names of 1 to {MAX_TENSOR_NAME_CHARS} printable "
            f"characters, got {name[:80]!a}"
        )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ArchiveInvalid(
            f"weights: expected tensor {name!r} to have dtype, shape and data_offsets only"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIRE_DATATYPES:
        raise ArchiveInvalid(
            f"weights: expected tensor {name!r} to have a dtype of {', '.join(WIRE_DATATYPES)}"
        )
    if not _are_sizes(shape) or len(shape) > MAX_TENSOR_DIMS:
        raise ArchiveInvalid(
            f"weights: expected the shape of {name!r} to be at most {MAX_TENSOR_DIMS} ints, "
            f"each in 0..{MAX_IMAGE_BYTES}"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ArchiveInvalid(
            f"weights: expected the data_offsets of {name!r} to be two ints in 0..{MAX_IMAGE_BYTES}"
        )
    datatype, item_bytes = WIRE_DATATYPES[dtype]
    nbytes = math.prod(shape) * item_bytes
    if offsets[1] - offsets[0] != nbytes:
        raise ArchiveInvalid(
            f"weights: tensor {name!r} of {dtype} {shape} should take {nbytes} bytes, "
            f"but its data_offsets are {offsets}"
        )
    return TensorPlace(
        offset_bytes=offsets[0], nbytes=nbytes, datatype=datatype, shape=tuple(shape)
    )


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_IMAGE_BYTES
        for item in value
    )


class WeightsImage:
    """The image of one model, mapped read-only.

    The mapping is shared: all executors of a machine that map the same file use the same
    physical pages, those of the page cache. The file must not be changed in place (a reader of
    a truncated mapping dies by SIGBUS); the store only ever renames whole files.
    """

    def __init__(self, path: Path, *, populate: bool = False) -> None:
        """Open, check and map ``path``.

        Args:
            path: A ``weights.safetensors``; no link.
            populate: Read all of it now, so that no later access waits for the disk.

        Raises:
            ArchiveInvalid: The file cannot be opened, or its header does not hold.
            OSError: There is no memory to map it.
        """
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
        file, size = open_regular(path, bytes_max=MAX_FILE_BYTES)
        with file:
            self.layout: Final = read_layout(file, size)
            # From 0 and not from data_start: an offset must be a multiple of the host's page
            # size, which is 64 KiB on some machines.
            self._map = mmap.mmap(file.fileno(), size, flags=flags, prot=mmap.PROT_READ)
        with memoryview(self._map) as whole:
            self._data = whole[self.layout.data_start :]

    @property
    def data(self) -> memoryview:
        """The image: ``layout.image_bytes`` read-only bytes that start at a page boundary."""
        return self._data

    def close(self) -> None:
        """Unmap. Closing twice is allowed.

        Raises:
            BufferError: An array or a slice made from ``data`` is still alive; drop it first.
        """
        self._data.release()
        self._map.close()

    def __enter__(self) -> Self:
        """Return the open image."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unmap."""
        self.close()
