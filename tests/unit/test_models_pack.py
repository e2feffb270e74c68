"""Packing: the archive computes what the module did, and the program knows no weights."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cw.errors import ArchiveInvalid, ManifestInvalid
from cw.messages import Datatype, TensorSpec
from cw.models.archive import verify_archive
from cw.models.examples.tiny import MLP
from cw.models.image import WeightsImage
from cw.models.pack import load_export, pack, pack_weights

FEATURES = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(4,)),)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp")


def run(archive, *inputs):
    """Run an archive as an executor does, by the recipe of ``pack``'s docstring."""
    program = torch.export.load(archive.program_path)
    with WeightsImage(archive.weights_path) as image:
        arena = torch.from_numpy(np.frombuffer(image.data, np.uint8).copy())
    dtypes = {"FP32": torch.float32, "INT64": torch.int64, "BF16": torch.bfloat16}
    waiting = iter(inputs)
    flat = []
    for argument in archive.signature.arguments:
        if argument.is_weight:
            place = archive.layout.tensors[argument.name]
            run_of = arena[place.offset_bytes : place.offset_bytes + place.nbytes]
            flat.append(run_of.view(dtypes[place.datatype]).view(place.shape))
        else:
            flat.append(next(waiting))
    with torch.inference_mode():
        return program.graph_module(*flat)


class Odd(nn.Module):
    """Every way in which a tensor can get into a program, and two inputs and outputs."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.gain = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        self.register_buffer("hidden", torch.arange(8.0), persistent=False)
        self.constant = torch.full((8,), scale)

    def forward(self, x, index):
        y = self.norm(self.linear(x)) * self.gain + self.hidden * self.constant
        return y + torch.tensor([1.0] * 8), (index + 1).reshape(index.shape[0] * 2)[::2]


ODD_INPUTS = (
    TensorSpec(name="x", datatype=Datatype.FP32, shape=(4,)),
    TensorSpec(name="index", datatype=Datatype.INT64, shape=(2,)),
)


def pack_odd(out, **options):
    return pack(
        Odd(),
        name="odd",
        inputs=ODD_INPUTS,
        output_names=("y", "next"),
        batch_sizes=(1, 2, 3, 5),
        out=out,
        **options,
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_an_archive_computes_what_the_module_computes(packed, batch):
    """Batches of 1 and 2 are where torch.export specialises by mistake."""
    x = torch.randn(batch, 4)
    (scores,) = run(packed, x)

    torch.testing.assert_close(scores, MLP.build(0)(x))


def test_every_kind_of_tensor_ends_up_in_the_image(tmp_path):
    """A constant left in the program would be shared by models that differ in it."""
    archive = pack_odd(tmp_path / "odd")
    names = set(archive.layout.tensors)
    x, index = torch.randn(5, 4), torch.arange(10).reshape(5, 2)
    y, following = run(archive, x, index)

    assert {"linear.weight", "norm.running_mean", "gain", "hidden", "constant"} <= names
    assert archive.layout.tensors["gain"].datatype == "BF16"
    assert [spec.name for spec in archive.manifest.outputs] == ["y", "next"]
    assert [spec.datatype for spec in archive.manifest.outputs] == [Datatype.FP32, Datatype.INT64]
    assert y.shape == (5, 8)
    assert following.tolist() == [1, 3, 5, 7, 9]


def test_the_program_is_the_same_for_all_weights(packed, tmp_path):
    """One program for a thousand models rests on this, and so does the allow-list."""
    other = MLP.pack(tmp_path / "other", name="other", seed=9)

    assert other.manifest.program_sha256 == packed.manifest.program_sha256
    assert other.manifest.weights_sha256 != packed.manifest.weights_sha256


def test_the_program_is_the_same_in_another_process(packed, tmp_path):
    """Hash seeds, paths and earlier exports of a process must leave no trace in a program."""
    code = (
        "import sys, pathlib; from cw.models.examples.tiny import MLP;"
        "print(MLP.pack(pathlib.Path(sys.argv[1])).manifest.program_sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )

    assert done.stdout.split()[-1] == packed.manifest.program_sha256


def test_the_program_names_no_path_of_the_machine_that_packed_it(packed):
    """torch keeps stack traces in programs; they would tell strangers about our disks."""
    content = packed.program_path.read_bytes()

    assert b".py" not in content
    assert b"site-packages" not in content


class Casting(nn.Module):
    """Casts, for which torch.export adds an assertion that names the device."""

    def forward(self, x):
        return (x > 0).to(torch.float32) * x


def test_a_program_does_not_insist_on_the_cpu(tmp_path):
    """Models are packed on machines without a GPU and run on machines with one."""
    archive = pack(Casting(), name="casting", inputs=FEATURES, out=tmp_path / "casting")

    assert b"as_device" not in archive.program_path.read_bytes()
    assert run(archive, torch.tensor([[1.0, -1.0, 2.0, -2.0]]))[0].tolist() == [[1, 0, 2, 0]]


def test_weights_alone_make_an_archive_of_the_same_program(packed, tmp_path):
    """Hundreds of copies for a benchmark must take seconds, not minutes."""
    module = MLP.build(5)
    copy = pack_weights(packed, module.state_dict(), name="copy", out=tmp_path / "copy")
    x = torch.randn(3, 4)

    assert verify_archive(tmp_path / "copy") == copy
    assert copy.manifest.name == "copy"
    assert copy.manifest.program_sha256 == packed.manifest.program_sha256
    torch.testing.assert_close(run(copy, x)[0], module(x))


def test_weights_alone_take_constants_from_the_template(tmp_path):
    """A state dict holds no constants, yet the program asks for them."""
    template = pack_odd(tmp_path / "odd")
    module = Odd().eval()
    copy = pack_weights(template, module.state_dict(), name="copy", out=tmp_path / "copy")
    x, index = torch.randn(2, 4), torch.zeros(2, 2, dtype=torch.int64)

    torch.testing.assert_close(run(copy, x, index)[0], module(x, index)[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"more": torch.zeros(1)}, "too many \\['more'\\]"),
        ({"head.bias": torch.zeros(4)}, "'head.bias' to be FP32 \\[3\\], got FP32 \\[4\\]"),
        ({"head.bias": torch.zeros(3, dtype=torch.float64)}, "got FP64 \\[3\\]"),
        ({"head.bias": torch.zeros(3, dtype=torch.complex64)}, "got torch.complex64"),
    ],
)
def test_weights_of_another_architecture_are_refused(packed, tmp_path, change, complaint):
    """A name in common is not a shape in common."""
    state = {**MLP.build(0).state_dict(), **change}

    with pytest.raises(ArchiveInvalid, match=complaint):
        pack_weights(packed, state, name="copy", out=tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_an_export_can_be_packed_under_the_names_of_its_weights(tmp_path):
    """Models come as exports where their code does not; the program must be as good."""
    batch = torch.export.Dim("batch", min=1, max=64)
    module = Odd().eval()
    given = (torch.randn(3, 4), torch.zeros(3, 2, dtype=torch.int64))
    exported = torch.export.export(module, given, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(exported, tmp_path / "odd.pt2")
    archive = pack(
        load_export(tmp_path / "odd.pt2"),
        name="odd",
        inputs=ODD_INPUTS,
        output_names=("y", "next"),
        out=tmp_path / "odd",
    )

    assert {"linear.weight", "norm.running_mean", "gain"} <= set(archive.layout.tensors)
    for got, expected in zip(run(archive, *given), module(*given), strict=True):
        torch.testing.assert_close(got, expected)


def test_an_export_for_one_batch_size_is_refused(tmp_path):
    """It would answer the wrong number of samples, or fail in the executor."""
    torch.export.save(
        torch.export.export(nn.Linear(4, 2).eval(), (torch.ones(3, 4),)), tmp_path / "fixed.pt2"
    )

    with pytest.raises(ArchiveInvalid, match=r"first dimension of .* to be a batch"):
        pack(load_export(tmp_path / "fixed.pt2"), name="m", inputs=FEATURES, out=tmp_path / "m")


def test_an_export_for_smaller_batches_is_refused(tmp_path):
    """Its author sees at packing which of two numbers to change."""
    batch = torch.export.Dim("batch", min=1, max=4)
    exported = torch.export.export(
        nn.Linear(4, 2).eval(), (torch.ones(3, 4),), dynamic_shapes=({0: batch},)
    )

    with pytest.raises(ArchiveInvalid, match="up to 16, got one for up to 4"):
        pack(exported, name="m", inputs=FEATURES, out=tmp_path / "m")


def test_a_file_that_is_no_export_is_refused(tmp_path):
    """The command line names the file instead of showing torch's stack."""
    (tmp_path / "x.pt2").write_bytes(b"PK nothing")

    with pytest.raises(ArchiveInvalid, match=r"x\.pt2: expected a file of torch\.export\.save"):
        load_export(tmp_path / "x.pt2")


class Counting(nn.Module):
    """Changes a buffer each time that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x * self.calls


class Mixing(nn.Module):
    """Each sample's output depends on its neighbours."""

    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True)


class Reducing(nn.Module):
    """Returns one number for the whole batch."""

    def forward(self, x):
        return x.sum()


class Branching(nn.Module):
    """Python looks at the values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Halving(nn.Module):
    """Returns what numpy has no type for."""

    def forward(self, x):
        return x.to(torch.bfloat16)


class Fixed(nn.Module):
    """Knows one batch size only."""

    def forward(self, x):
        return x.reshape(3, 4) + 0


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (Counting(), "may not change its weights|changes its weights"),
        (Mixing(), "depend on one another"),
        (Reducing(), "to be a batch"),
        (Branching(), "cannot be exported"),
        (Fixed(), "cannot be exported"),
    ],
)
def test_a_module_that_is_no_batched_function_is_refused(tmp_path, module, complaint):
    """It would work when it is packed, and give wrong answers in somebody else's batch."""
    with pytest.raises(ArchiveInvalid, match=complaint):
        pack(module, name="m", inputs=FEATURES, out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_only_run_alone_can_be_packed(tmp_path):
    """With batch_sizes = (1,) a module may fix its batch."""
    archive = pack(
        nn.Linear(4, 2), name="one", inputs=FEATURES, batch_sizes=(1,), out=tmp_path / "m"
    )

    assert archive.signature.batch_max == 1
    assert run(archive, torch.zeros(1, 4))[0].shape == (1, 2)


def test_names_and_folders_are_checked_before_the_work(tmp_path, packed):
    """An export takes seconds; a typing error should not."""
    with pytest.raises(ManifestInvalid):
        MLP.pack(tmp_path / "m", name="No!")
    with pytest.raises(FileExistsError, match="choose another folder"):
        MLP.pack(packed.folder)
    with pytest.raises(ArchiveInvalid, match="output_names"):
        pack(MLP.build(0), name="m", inputs=FEATURES, output_names=("a", "b"), out=tmp_path / "m")


def test_an_output_that_no_client_can_hold_is_refused(tmp_path):
    """numpy has no bfloat16: the module must convert."""
    with pytest.raises(ArchiveInvalid, match="got BF16; convert it"):
        pack(Halving(), name="m", inputs=FEATURES, out=tmp_path / "m")


def test_an_example_answers_for_its_module(packed):
    """Demos count wrong answers against this."""
    features = torch.randn(4)
    answer = MLP.run({"features": features.numpy()})

    np.testing.assert_allclose(answer["scores"], run(packed, features[None])[0][0], rtol=1e-5)


def test_the_stated_tolerance_covers_the_batch_sizes(packed):
    """Clients compare answers by it: too small is a false alarm, too large hides a wrong model."""
    x = torch.randn(4, 4)
    alone = torch.cat([MLP.build(0)(row[None]) for row in x])
    (together,) = run(packed, x)
    stranger = MLP.build(1)(x)

    allowed = packed.manifest.tolerance * alone.abs().max()
    assert (together - alone).abs().max() <= allowed
    assert (stranger - alone).abs().max() > allowed
