"""Where a program's parameters lie in a model's pages, and how its weights get there.

A model's *device image* is what a LOAD copies: the parameters of the rewritten program, one after
the other. All models of a program have the same plan; each makes its own image once, at PREPARE.
"""

import ctypes
from collections.abc import Sequence

import attrs
import torch

from cw.devices.cpu import onednn
from cw.devices.cpu.onednn import PackedLayout
from cw.devices.cpu.rewriting import Parameter, Weights
from cw.units import div_ceil

ALIGNMENT_BYTES = 256
"""Of each parameter: more than any vector unit asks for."""


@attrs.frozen(kw_only=True)
class _Place:
    """Where one parameter lies."""

    parameter: Parameter
    offset_bytes: int
    size_bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    packed: PackedLayout | None


@attrs.frozen(kw_only=True)
class ImagePlan:
    """The layout of a program's device images.

    Attributes:
        size_bytes: Of an image.
    """

    size_bytes: int
    _places: tuple[_Place, ...]

    def write(self, own: Weights, address: int) -> None:
        """Make a model's image.

        Args:
            own: The model's weights.
            address: Of `size_bytes` of memory.
        """
        for place in self._places:
            made, target = place.parameter.make(own), address + place.offset_bytes
            if place.packed is not None:
                layout = onednn.layout_of(made)
                assert layout == place.packed, f"{place.parameter.name} was packed in two ways"
                onednn.copy_out(made, target)
            elif place.size_bytes:
                made = made.contiguous()
                ctypes.memmove(target, made.data_ptr(), place.size_bytes)

    def bind(self, address: int) -> tuple[torch.Tensor, ...]:
        """Make the program's arguments over an image at `address`, which is not touched.

        They are valid for as long as an image lies there, and must not outlive its range of
        addresses.
        """
        memory = (ctypes.c_uint8 * max(1, self.size_bytes)).from_address(address)
        image = torch.frombuffer(memory, dtype=torch.uint8)
        return tuple(_bound(place, image, address) for place in self._places)


def plan_image(parameters: Sequence[Parameter], own: Weights) -> ImagePlan:
    """Lay out parameters.

    Args:
        parameters: Of the rewritten program.
        own: Any weights of the right shapes; their values don't matter.
    """
    places, offset = [], 0
    for parameter in parameters:
        made = parameter.make(own)
        packed = onednn.layout_of(made) if parameter.is_packed else None
        size_bytes = made.nbytes if packed is None else packed.size_bytes
        places.append(
            _Place(
                parameter=parameter,
                offset_bytes=offset,
                size_bytes=size_bytes,
                shape=tuple(made.shape),
                dtype=made.dtype,
                packed=packed,
            )
        )
        offset += div_ceil(size_bytes, ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return ImagePlan(size_bytes=offset, places=tuple(places))


def _bound(place: _Place, image: torch.Tensor, address: int) -> torch.Tensor:
    if place.packed is not None:
        return onednn.tensor_at(address + place.offset_bytes, place.packed)
    end = place.offset_bytes + place.size_bytes
    return image[place.offset_bytes : end].view(place.dtype).view(place.shape)
