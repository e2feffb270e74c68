"""The models that benchmarks of the cpu device run, made on the spot with random weights."""

from pathlib import Path
from typing import Final

import attrs
from torch import Tensor, nn

from cw.messages import Datatype, TensorSpec
from cw.models.archive import Archive, verify_archive
from cw.models.examples.example import Example, seeded
from cw.models.examples.resnet import RESNET18
from cw.models.pack import pack_weights

BATCH_SIZES: Final = (1, 2, 4, 8, 16)


class Perceptron(nn.Module):
    """Three fully connected layers: a ranking model's size, 2.1 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512)
        )

    def forward(self, row: Tensor) -> Tensor:
        """Map ``float32[batch, 512]`` to the same shape."""
        result: Tensor = self.body(row)
        return result


_PERCEPTRON: Final = Example(
    name="perceptron",
    description="Three fully connected layers with random weights.",
    build=lambda seed: seeded(Perceptron, seed),
    inputs=(TensorSpec(name="row", datatype=Datatype.FP32, shape=(512,)),),
    output_names=("row",),
)


def perceptron(folder: Path) -> Archive:
    """Pack the small one."""
    return _packed(_PERCEPTRON, folder)


def resnet(folder: Path) -> Archive:
    """Pack a ResNet-18 for 3x32x32: 45 MB."""
    return _packed(RESNET18, folder)


def resnets(
    folder: Path, count: int, *, batch_sizes: tuple[int, ...] = BATCH_SIZES
) -> list[Archive]:
    """Pack so many ResNet-18s that share a program."""
    first = _packed(RESNET18, folder, batch_sizes)
    archives = [first]
    for index in range(1, count):
        weights = RESNET18.build(index).state_dict()
        name = f"resnet18-{index}"
        packed = pack_weights(first, weights, name=name, out=folder / name)
        archives.append(verify_archive(packed.folder))
    return archives


def _packed(example: Example, folder: Path, batch_sizes: tuple[int, ...] = BATCH_SIZES) -> Archive:
    sized = attrs.evolve(example, batch_sizes=batch_sizes)
    return verify_archive(sized.pack(folder / example.name, name=example.name).folder)
