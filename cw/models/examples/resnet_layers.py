"""ResNet-18's layers, for small images; needs torch and nothing else.

Servers that `cw` is compared with load this very file into environments of their own
(`cw/benchmarks/peers/servers/network.py`).

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, with the stem of that
paper (stride 2, then pooling). A 32x32 image is therefore down to 8x8 in the first stage: a sample
is 37 million multiply-adds against 45 MB of weights, so small batches are bound by the weights and
larger ones pay.
"""

from typing import Final

from torch import Tensor, nn

_STAGE_WIDTHS: Final = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is projected where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(width_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32[batch, width_in, h, w]`` to ``[batch, width_out, h/stride, w/stride]``."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        result: Tensor = y.relu()
        return result


class ResNet18(nn.Module):
    """Four stages of two blocks: 11.2 M parameters."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        width_in = 64
        for stage, width in enumerate(_STAGE_WIDTHS):
            blocks.append(ResidualBlock(width_in, width, stride=1 if stage == 0 else 2))
            blocks.append(ResidualBlock(width, width, stride=1))
            width_in = width
        self.stages = nn.Sequential(*blocks)
        self.classifier = nn.Linear(_STAGE_WIDTHS[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify ``image: float32[batch, 3, 32, 32]`` to ``float32[batch, classes]``."""
        logits: Tensor = self.classifier(self.stages(self.stem(image)).mean(dim=(2, 3)))
        return logits
