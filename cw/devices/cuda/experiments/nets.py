"""Two networks to measure with, random weights, half precision: a ResNet-50 and a BERT encoder.

Built here, from torch alone, so that a card can be checked where no package with models is at
hand. What they answer does not matter; their kernels and sizes are those of the papers.
Sources: arXiv 1512.03385 (table 1, 50 layers), arXiv 1810.04805 (base).
"""

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

_STAGES: Final = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Per stage: width, blocks, stride of the first."""
_WIDTH: Final = 768
_HEADS: Final = 12
_LAYERS: Final = 12
_TOKENS: Final = 128


class _Bottleneck(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.narrow = nn.Conv2d(inputs, width, 1, bias=False)
        self.middle = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.widen = nn.Conv2d(width, outputs, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (width, width, outputs))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, inputs, h, w] to [n, 4 * width, h / stride, w / stride]."""
        y = functional.relu(self.norms[0](self.narrow(x)))
        y = functional.relu(self.norms[1](self.middle(y)))
        return functional.relu(self.norms[2](self.widen(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """Classifies images: [n, 3, 224, 224] to [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, channels = [], 64
        for width, count, stride in _STAGES:
            for index in range(count):
                blocks.append(_Bottleneck(channels, width, stride if index == 0 else 1))
                channels = 4 * width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = functional.max_pool2d(functional.relu(self.norm(self.stem(x))), 3, 2, 1)
        logits: torch.Tensor = self.head(self.blocks(x).mean((2, 3)))
        return logits


class _Layer(nn.Module):
    """Attention and two dense layers, each beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.norm_in, self.norm_mid = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, tokens, width] to the same shape."""
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm_in(x)).view(batch, tokens, 3, _HEADS, width // _HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        y: torch.Tensor = x + self.down(functional.gelu(self.up(self.norm_mid(x))))
        return y


class BertEncoder(nn.Module):
    """Encodes: [n, 128, 768] to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Layer() for _ in range(_LAYERS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode."""
        y: torch.Tensor = self.layers(x)
        return y


def make(name: str, *, seed: int = 0, device: str = "cuda") -> nn.Module:
    """Build ``resnet50`` or ``bert`` in half precision."""
    torch.manual_seed(seed)
    net: Any = ResNet50() if name == "resnet50" else BertEncoder()
    net = net.eval().half().to(device)
    made: nn.Module = net.to(memory_format=torch.channels_last) if name == "resnet50" else net
    return made


def random_input(name: str, batch_size: int, *, device: str = "cuda") -> torch.Tensor:
    """Make inputs that are random: with zeros a GPU runs faster than in service."""
    # The annotation of `device` in torch's own stubs wants no more than this.
    options: dict[str, Any] = {"device": device, "dtype": torch.half}
    if name == "resnet50":
        x = torch.randn(batch_size, 3, 224, 224, **options)
        return x.contiguous(memory_format=torch.channels_last)
    return torch.randn(batch_size, _TOKENS, _WIDTH, **options)
