"""Small models with random weights: ``CNN`` (5 MB) to serve by the hundred, ``MLP`` for tests."""

import itertools
from typing import Final

from torch import Tensor, nn

from cw.messages import Datatype, TensorSpec
from cw.models.examples.example import Example, seeded

_WIDTHS: Final = (3, 64, 128, 256, 384)


class TinyCnn(nn.Module):
    """Four strided convolutions and a classifier: 1.26 M parameters, about 1 ms on a CPU."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(_WIDTHS):
            layers += [
                nn.Conv2d(width_in, width_out, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(_WIDTHS[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify ``image: float32[batch, 3, 32, 32]`` to ``float32[batch, classes]``."""
        logits: Tensor = self.classifier(self.features(image).mean(dim=(2, 3)))
        return logits


class TinyMlp(nn.Module):
    """Two linear layers, 67 parameters: exports in tens of milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``features: float32[batch, 4]`` to ``float32[batch, 3]``."""
        scores: Tensor = self.head(self.hidden(features).relu())
        return scores


CNN: Final = Example(
    name="tiny-cnn",
    description="A small CNN with random weights, 3x32x32 in, 10 classes out.",
    build=lambda seed: seeded(TinyCnn, seed),
    inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(3, 32, 32)),),
    output_names=("logits",),
)

MLP: Final = Example(
    name="tiny-mlp",
    description="Two linear layers with random weights, 4 numbers in, 3 out.",
    build=lambda seed: seeded(TinyMlp, seed),
    inputs=(TensorSpec(name="features", datatype=Datatype.FP32, shape=(4,)),),
    output_names=("scores",),
    batch_sizes=(1, 2, 4),
)
