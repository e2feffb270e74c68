"""``model.toml``: what one model takes, gives and weighs.

The manifest is the only part of an archive that gateways and the controller read. It comes
from outside, so every field is checked when it is made, and an error says what was expected
and what came. It knows nothing of files beside it: ``archive.py`` compares it with them.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import attrs

from cw.errors import ManifestInvalid
from cw.messages import Datatype, ModelSpec, TensorSpec, model_id_for

FORMAT: Final = 1
"""The version of the archive's layout; a reader refuses any other."""

MAX_MANIFEST_BYTES: Final = 64 * 1024
"""A full manifest (64 inputs and outputs, 256 batch sizes) takes less than half of this."""

MAX_TENSORS: Final = 64
"""Inputs, or outputs, of one model."""

MAX_DIMS: Final = 8
"""Dimensions of a tensor without its batch; the most that vision or video models use is 5."""

MAX_SAMPLE_BYTES: Final = 64 * 1024 * 1024
"""One sample of one tensor. Larger ones would not cross a 10 Gbit/s link inside an SLO."""

MAX_IMAGE_BYTES: Final = 64 * 1024**3
"""Larger than the memory of most devices that could hold it."""

MAX_BATCH: Final = 256
MAX_DESCRIPTION_CHARS: Final = 500

IMAGE_ALIGNMENT_BYTES: Final = 4096
"""The data section of an image starts and ends on a host page: it can be mapped and pinned."""

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
"""A model's name is also a folder's and a URL's; it has no separator and no leading dot."""

_TENSOR_NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
_SHA256_PATTERN: Final = re.compile(r"[0-9a-f]{64}")


def _expected(what: str, expected: str, came: object) -> NoReturn:
    try:
        text = repr(came)
    except ValueError:  # an int of more digits than Python will print
        text = f"an unprintable {type(came).__name__}"
    if len(text) > 200:
        text = text[:200] + "..."
    raise ManifestInvalid(f"{what}: expected {expected}, got {text}")


def _is_int(value: object) -> bool:
    """Tell ints from bools, which Python counts as ints."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or isinstance(value, float)


@attrs.frozen(kw_only=True)
class Manifest:
    """All that is known of a model without opening its program or its weights.

    Attributes:
        format: ``FORMAT``.
        name: A match of ``NAME_PATTERN``.
        program_sha256: Hex digest of ``program.pt2``; models of one architecture share it.
        weights_sha256: Hex digest of ``weights.safetensors``.
        image_bytes: What a LOAD copies; a multiple of 4096.
        inputs: In the order in which the program takes them.
        outputs: In the order in which the program returns them.
        batch_sizes: The sizes to profile and capture, rising, 1 among them.
        tolerance: The largest difference to expect between an element of an output and the
            module's own answer to that sample alone, as a share of the largest element of the
            answer. It covers all batch sizes, since a client does not choose its batch; it is
            not zero, since kernels round differently for each.
        description: One line for people.
    """

    format: int = FORMAT
    name: str
    program_sha256: str
    weights_sha256: str
    image_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]
    tolerance: float
    description: str = ""

    def __attrs_post_init__(self) -> None:
        """Check every field, and the fields against each other.

        Raises:
            ManifestInvalid: Names the field, what was expected and what came.
        """
        if not _is_int(self.format) or self.format != FORMAT:
            _expected("format", f"{FORMAT} (this version of cw reads no other)", self.format)
        check_name(self.name)
        for field in ("program_sha256", "weights_sha256"):
            check_sha256(getattr(self, field), field)
        if (
            not _is_int(self.image_bytes)
            or not 0 < self.image_bytes <= MAX_IMAGE_BYTES
            or self.image_bytes % IMAGE_ALIGNMENT_BYTES
        ):
            bound = f"a multiple of {IMAGE_ALIGNMENT_BYTES} in 1..{MAX_IMAGE_BYTES}"
            _expected("image_bytes", bound, self.image_bytes)
        self._check_tensors()
        self._check_batches()
        if not _is_number(self.tolerance) or not 0 <= self.tolerance <= 1:
            _expected("tolerance", "a number in 0..1", self.tolerance)
        if (
            not isinstance(self.description, str)
            or len(self.description) > MAX_DESCRIPTION_CHARS
            or not self.description.isprintable()
        ):
            bound = f"one printable line of at most {MAX_DESCRIPTION_CHARS} characters"
            _expected("description", bound, self.description)

    def _check_tensors(self) -> None:
        for field, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not 1 <= len(specs) <= MAX_TENSORS:
                _expected(field, f"1 to {MAX_TENSORS} tensors", len(specs))
            for spec in specs:
                _check_tensor(spec)
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                _expected(field, "names that differ", names)

    def _check_batches(self) -> None:
        sizes = self.batch_sizes
        if (
            not sizes
            or not all(_is_int(size) and 1 <= size <= MAX_BATCH for size in sizes)
            or list(sizes) != sorted(set(sizes))
            or sizes[0] != 1
        ):
            _expected("batch_sizes", f"rising ints from 1 to at most {MAX_BATCH}", sizes)

    @property
    def input_bytes(self) -> int:
        """Bytes of one request's inputs."""
        return sum(spec.size_bytes for spec in self.inputs)

    @property
    def output_bytes(self) -> int:
        """Bytes of one request's outputs."""
        return sum(spec.size_bytes for spec in self.outputs)

    def to_spec(self) -> ModelSpec:
        """Return what crosses the wire: all but the description and the tolerance."""
        return ModelSpec(
            model_id=model_id_for(self.name, self.program_sha256, self.weights_sha256),
            name=self.name,
            program_sha256=self.program_sha256,
            weights_sha256=self.weights_sha256,
            image_bytes=self.image_bytes,
            inputs=self.inputs,
            outputs=self.outputs,
            batch_sizes=self.batch_sizes,
        )


def _check_tensor(spec: TensorSpec) -> None:
    if not isinstance(spec.name, str) or not _TENSOR_NAME_PATTERN.fullmatch(spec.name):
        _expected("tensor name", f"a match of {_TENSOR_NAME_PATTERN.pattern}", spec.name)
    if len(spec.shape) > MAX_DIMS:
        _expected(f"shape of {spec.name}", f"at most {MAX_DIMS} dimensions", spec.shape)
    if not all(_is_int(extent) and 1 <= extent <= MAX_SAMPLE_BYTES for extent in spec.shape):
        _expected(f"shape of {spec.name}", f"ints in 1..{MAX_SAMPLE_BYTES}", spec.shape)
    if spec.size_bytes > MAX_SAMPLE_BYTES:
        _expected(f"shape of {spec.name}", f"at most {MAX_SAMPLE_BYTES} bytes", spec.shape)


def check_name(name: object) -> str:
    """Return ``name`` if it may name a model.

    Raises:
        ManifestInvalid: It is no string or does not match ``NAME_PATTERN``.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        _expected("model name", f"a match of {NAME_PATTERN.pattern}", name)
    return name


def check_sha256(digest: object, what: str) -> str:
    """Return ``digest`` if it is a lower-case hex sha256.

    Raises:
        ManifestInvalid: It is not; the message begins with ``what``.
    """
    if not isinstance(digest, str) or not _SHA256_PATTERN.fullmatch(digest):
        _expected(what, "64 lower-case hex digits", digest)
    return digest


def parse_manifest(text: str) -> Manifest:
    """Read a manifest from the text of ``model.toml``.

    Args:
        text: The whole file. Its size is bounded by the caller or by ``MAX_MANIFEST_BYTES``.

    Raises:
        ManifestInvalid: Not TOML, a key is missing or unknown, or a value is out of bounds.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        _expected("model.toml", f"at most {MAX_MANIFEST_BYTES} characters", len(text))
    try:
        document = tomllib.loads(text)
    # RecursionError: nested arrays; ValueError: an int of more digits than Python will read.
    except (ValueError, RecursionError) as exc:
        raise ManifestInvalid(f"model.toml: expected TOML, got an error: {exc}") from exc
    _check_keys("model.toml", document, Manifest)
    for field in ("inputs", "outputs"):
        document[field] = tuple(_parse_tensor(field, item) for item in _list(document, field))
    document["batch_sizes"] = tuple(_list(document, "batch_sizes"))
    return Manifest(**document)


def dump_manifest(manifest: Manifest) -> str:
    """Write a manifest as TOML; ``parse_manifest`` gives back an equal one."""
    lines = [
        f"format = {manifest.format}",
        f"name = {_quote(manifest.name)}",
        f"description = {_quote(manifest.description)}",
        f"program_sha256 = {_quote(manifest.program_sha256)}",
        f"weights_sha256 = {_quote(manifest.weights_sha256)}",
        f"image_bytes = {manifest.image_bytes}",
        f"batch_sizes = {list(manifest.batch_sizes)}",
        f"tolerance = {float(manifest.tolerance)}",
    ]
    for field, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        for spec in specs:
            lines += [
                "",
                f"[[{field}]]",
                f"name = {_quote(spec.name)}",
                f"datatype = {_quote(spec.datatype.value)}",
                f"shape = {list(spec.shape)}",
            ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    # A JSON string of printable characters is a TOML basic string; escapes of characters
    # outside the basic plane are not, hence ensure_ascii=False.
    return json.dumps(text, ensure_ascii=False)


def _list(document: Mapping[str, Any], field: str) -> list[Any]:
    value = document[field]
    if not isinstance(value, list):
        _expected(field, "a list", value)
    return value


def _parse_tensor(field: str, item: object) -> TensorSpec:
    if not isinstance(item, dict):
        _expected(field, "tables with name, datatype and shape", item)
    _check_keys(field, item, TensorSpec)
    try:
        datatype = Datatype(item["datatype"])
    except ValueError as exc:
        known = ", ".join(kind.value for kind in Datatype)
        raise ManifestInvalid(f"{field}: expected a datatype of {known}: {exc}") from exc
    return TensorSpec(name=item["name"], datatype=datatype, shape=tuple(_list(item, "shape")))


def _check_keys(
    where: str, table: Mapping[str, Any], value_type: type[attrs.AttrsInstance]
) -> None:
    fields = {field.name: field for field in attrs.fields(value_type)}
    # A field with a default may be left out, but `format` may not: it says how to read on.
    required = {n for n, f in fields.items() if f.default is attrs.NOTHING or n == "format"}
    if missing := sorted(required - table.keys()):
        _expected(where, f"the keys {', '.join(sorted(required))}", f"none of {missing}")
    if unknown := sorted(table.keys() - fields.keys()):
        _expected(where, f"only the keys {', '.join(fields)}", unknown)
