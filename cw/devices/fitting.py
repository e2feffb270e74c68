"""Do a program, a weights file and a model's spec belong together? Asked by every PREPARE.

Gateways asked the same at the upload (`models/archive.py`), but a device reads the files itself and
would, on a mistake in between, compute nonsense or read past the end of its memory.
"""

import hashlib
import os
from pathlib import Path

import attrs

from cw.errors import ArchiveInvalid
from cw.messages import ModelSpec
from cw.models.image import ImageLayout, read_layout
from cw.models.program import check_program
from cw.models.program_signature import ProgramSignature, check_weights, read_signature


@attrs.frozen(kw_only=True)
class CheckedProgram:
    """A program's bytes, the very ones whose hash and contents were checked.

    Attributes:
        sha256: Of `data`.
        data: The whole file.
        signature: What it takes and gives.
        is_allowed: An administrator vouches for it; if not, torch must not load it.
    """

    sha256: str
    data: bytes
    signature: ProgramSignature
    is_allowed: bool


def read_program(model: ModelSpec, path: Path, *, is_allowed: bool) -> CheckedProgram:
    """Read a program and check that it is the one that the spec names.

    Raises:
        ArchiveInvalid: It can't be read, has another hash, or is not data.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ArchiveInvalid(f"program of {model.name}: expected a readable file: {exc}") from exc
    digest = hashlib.sha256(data).hexdigest()
    if digest != model.program_sha256:
        raise ArchiveInvalid(
            f"program of {model.name}: expected sha256 {model.program_sha256}, got {digest} "
            f"at {path}: the store was changed by hand; add the model again"
        )
    signature = read_signature(check_program(data))
    return CheckedProgram(sha256=digest, data=data, signature=signature, is_allowed=is_allowed)


def read_weights(path: Path) -> ImageLayout:
    """Read the header of a weights file.

    Raises:
        ArchiveInvalid: It can't be read or is no image.
    """
    try:
        with path.open("rb") as file:
            return read_layout(file, os.fstat(file.fileno()).st_size)
    except OSError as exc:
        raise ArchiveInvalid(f"weights: expected a readable file: {exc}") from exc


def check_fit(model: ModelSpec, signature: ProgramSignature, layout: ImageLayout) -> None:
    """Compare a model's spec and image with its program.

    Raises:
        ArchiveInvalid: Names, shapes, datatypes, sizes or batch sizes differ.
    """
    if layout.image_bytes != model.image_bytes:
        raise ArchiveInvalid(
            f"weights of {model.name}: expected an image of {model.image_bytes} bytes, "
            f"got {layout.image_bytes}"
        )
    check_weights(signature, layout)
    for field, arguments, specs in (
        ("inputs", signature.inputs, model.inputs),
        ("outputs", signature.outputs, model.outputs),
    ):
        of_program = [(argument.datatype, argument.shape) for argument in arguments]
        of_model = [(spec.datatype.value, spec.shape) for spec in specs]
        if of_program != of_model:
            raise ArchiveInvalid(
                f"program of {model.name}: its {field} are {of_program}, the model's {of_model}"
            )
    if model.batch_sizes[-1] > signature.batch_max:
        raise ArchiveInvalid(
            f"program of {model.name}: expected batches of up to {model.batch_sizes[-1]}, "
            f"but it was exported for up to {signature.batch_max}"
        )
