"""A model that no executor runs unless an administrator allowed its program: it writes in place."""

from torch import nn

from cw.messages import Datatype, TensorSpec
from cw.models.examples.example import Example


class Writing(nn.Module):
    """One operator, `relu_`, which is not on the list of safe ones."""

    def forward(self, features):
        return (features + 1).relu_()


WRITING = Example(
    name="writing",
    description="Writes in place.",
    build=lambda _seed: Writing(),
    inputs=(TensorSpec(name="features", datatype=Datatype.FP32, shape=(4,)),),
    output_names=("scores",),
    batch_sizes=(1,),
)
