"""Weights in oneDNN's own layouts, at addresses that we choose.

Torch's convolution brings its weights into the layout of the processor's vector units at each
call; weights that lie in it already save that, which is most of a small batch's time (design/0014).
Torch keeps such tensors opaque and allocates them itself. Here their bytes are read out once, and a
tensor is made over any memory that holds them, by the same C function that torch's ahead-of-time
compiled models use for theirs.

All of it is torch's inner interface: `is_available` says whether this version has it.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import torch

_ops: Final[Any] = torch.ops.mkldnn
_NAMES: Final = (
    "data_ptr",
    "_nbytes",
    "_get_mkldnn_serialized_md",
    "_convolution_pointwise",
    "_linear_pointwise",
    "_reorder_linear_weight",
)


@attrs.frozen(kw_only=True)
class PackedLayout:
    """Where one packed tensor's numbers lie among its bytes; equal for all weights of a shape.

    Attributes:
        shape: Of the tensor, as the program's author knows it.
        size_bytes: What it takes packed.
        descriptor: oneDNN's own, opaque.
    """

    shape: tuple[int, ...]
    size_bytes: int
    descriptor: bytes


def is_available() -> bool:
    """Say whether this torch and this processor can pack weights and use them in place."""
    if not torch._C._has_mkldnn or _library() is None:
        return False
    return all(hasattr(_ops, name) for name in _NAMES) and hasattr(
        torch._C._aoti, "alloc_tensor_by_stealing_from_void_ptr"
    )


def pack_convolution(
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    input_shape: Sequence[int],
) -> torch.Tensor:
    """Bring ``float32[out, in / groups, h, w]`` into the layout that is best for such an input."""
    pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed: torch.Tensor = pack(
        weight.to_mkldnn(), padding, stride, dilation, groups, list(input_shape)
    )
    return packed


def pack_linear(weight: torch.Tensor, *, rows: int) -> torch.Tensor:
    """Bring ``float32[out, in]`` into the layout that is best for so many rows of input."""
    packed: torch.Tensor = _ops._reorder_linear_weight(weight, rows)
    return packed


def layout_of(packed: torch.Tensor) -> PackedLayout:
    """Describe a packed tensor."""
    return PackedLayout(
        shape=tuple(packed.shape),
        size_bytes=int(_ops._nbytes(packed)),
        descriptor=_ops._get_mkldnn_serialized_md(packed).numpy().tobytes(),
    )


def copy_out(packed: torch.Tensor, address: int) -> None:
    """Copy a packed tensor's bytes to memory that is large enough."""
    ctypes.memmove(address, int(_ops.data_ptr(packed)), int(_ops._nbytes(packed)))


def tensor_at(address: int, layout: PackedLayout) -> torch.Tensor:
    """Make a packed tensor over memory that holds its bytes, or will; it is not touched now.

    Args:
        address: A multiple of 64, mapped whenever the tensor is used.
        layout: What lies there.

    Raises:
        MemoryError: Torch refused; it says why on standard error.
    """
    library = _library()
    assert library is not None, "ask is_available() first"
    count = len(layout.shape)
    extents = (ctypes.c_int64 * count)(*layout.shape)
    handle = ctypes.c_void_p()
    status = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(address),
        ctypes.c_int64(count),
        extents,
        extents,  # strides, which a packed tensor has none of
        ctypes.c_int64(0),
        ctypes.c_int32(library.aoti_torch_dtype_float32()),
        ctypes.c_int32(library.aoti_torch_device_type_cpu()),
        ctypes.c_int32(0),
        ctypes.byref(handle),
        ctypes.c_int32(library.aoti_torch_layout__mkldnn()),
        layout.descriptor,
        ctypes.c_int64(len(layout.descriptor)),
    )
    if status != 0 or not handle.value:
        raise MemoryError(f"torch could not make a packed tensor of {layout.shape} (code {status})")
    return torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle.value))


def _library() -> ctypes.CDLL | None:
    """Find the C functions of torch's ahead-of-time compiled models."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path))
        functions = (
            library.aoti_torch_create_tensor_from_blob_v2,
            library.aoti_torch_dtype_float32,
            library.aoti_torch_device_type_cpu,
            library.aoti_torch_layout__mkldnn,
        )
    except (OSError, AttributeError):
        return None
    for function in functions:
        function.restype = ctypes.c_int32
    return library


def _capsule(pointer: int) -> Any:
    """Wrap a pointer as Python's C interface passes them."""
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(pointer, None, None)
