"""ResNet-18 fed with small images, with random weights: a benchmark's vision model."""

from typing import Final

from cw.messages import Datatype, TensorSpec
from cw.models.examples.example import Example, seeded
from cw.models.examples.resnet_layers import ResNet18

RESNET18: Final = Example(
    name="resnet18",
    description="ResNet-18 with random weights, 3x32x32 in, 100 classes out.",
    build=lambda seed: seeded(ResNet18, seed),
    inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(3, 32, 32)),),
    output_names=("logits",),
)
