"""``program.pt2``: an exported program without weights, checked as data and never loaded.

Loading a ``.pt2`` executes what it says: sample inputs are unpickled, shape expressions are
evaluated as Python, and operators are looked up by name in ``torch``. Programs that nobody vouches
for are rebuilt from their graph instead (``safe_graph.py``). For all others two gates stand before
``torch.export.load``: the allow-list of program hashes (``store.py``), which is the one to rely on,
and this module, which refuses whatever ``pack.py`` would not have written:

- a zip that is byte for byte what ``write_program`` writes from its members: stored (so no zip
  bomb fits in), nothing hidden between members, no two readers that see different files;
- no member but those of ``_is_member``: no pickled object, no weights, no compiled code;
- a graph whose operators are ``aten``'s or Python's arithmetic, and whose shape expressions are
  made of symbols, numbers and arithmetic.

``program_signature.py`` reads from the same graph what the program takes and gives.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from cw.errors import ArchiveInvalid
from cw.units import MiB

MAX_PROGRAM_BYTES: Final = 32 * MiB
"""Some twenty times EfficientNet's. A graph this large would take minutes to load."""

MODEL_MEMBER: Final = "archive/models/model.json"
SAMPLE_INPUTS_MEMBER: Final = "archive/data/sample_inputs/model.pt"
"""Where torch keeps pickled sample inputs. It takes an empty member for none at all."""

WEIGHTS_CONFIG_MEMBER: Final = "archive/data/weights/model_weights_config.json"
CONSTANTS_CONFIG_MEMBER: Final = "archive/data/constants/model_constants_config.json"

FIXED_MEMBERS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "archive/.data/version": b"6\n",
        "archive/archive_format": b"pt2",
        "archive/archive_version": b"0",
        "archive/byteorder": b"little",
        SAMPLE_INPUTS_MEMBER: b"",
    }
)

STUB_MEMBER: Final = re.compile(r"archive/data/(?:weights/weight|constants/tensor)_[0-9]{1,2}")
STUB: Final = bytes(8)
"""One zero of the widest datatype. torch insists on a tensor of the right shape for each weight
of a program; here that is a view of a stub, all strides zero, which costs nothing."""

_JSON_MEMBERS: Final = frozenset({MODEL_MEMBER, WEIGHTS_CONFIG_MEMBER, CONSTANTS_CONFIG_MEMBER})

_OPERATOR: Final = re.compile(
    r"torch\.ops\.aten\.[A-Za-z0-9_]{1,64}\.[A-Za-z0-9_]{1,64}"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(?:int|float|max|min|not)"
    r"|math\.(?:ceil|floor|trunc)"
)
_FORBIDDEN_OPERATORS: Final = ("torch.ops.aten.from_file.",)
"""Reads any file of the executor's machine."""

_ASSERT_DEVICE: Final = "torch.ops.aten._assert_tensor_metadata.default"

_EXPRESSION: Final = re.compile(
    r"(?:Symbol\('[a-z]{1,4}[0-9]{1,9}'(?:, (?:positive|nonnegative|integer)=True){0,3}\)"
    r"|(?:Integer|Add|Mul|FloorDiv|Mod|Max|Min|CleanDiv)(?=\()|[0-9]{1,19}|[(), -]){1,200}"
)
"""How torch prints a shape, e.g. ``Mul(Integer(4), Symbol('s77', positive=True, integer=True))``.
It reads it back with ``sympify``, which evaluates any Python; so nothing else may stand there."""

_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    ValueError,
    OverflowError,
    EOFError,
    NotImplementedError,  # a compression or a version that zipfile does not know
    RuntimeError,  # an encrypted member
    OSError,  # a seek to where nothing is
    LookupError,
)


def write_program(members: Mapping[str, bytes]) -> bytes:
    """Build a ``.pt2`` that depends on nothing but its members: sorted, stored, dated 1980."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)
            info.create_system = 3  # as on Unix, wherever it is packed
            archive.writestr(info, members[name])
    return buffer.getvalue()


def strip_program(saved: bytes) -> bytes:
    """Rewrite what ``torch.export.save`` wrote, so that only the architecture is left.

    Weights, sample inputs, guards and traces of where it was exported go; what stays is the
    same, byte for byte, for every weight set of one architecture.

    Args:
        saved: A ``.pt2`` of our own making. It is taken apart, not checked.

    Raises:
        ArchiveInvalid: A weight is no plain tensor.
    """
    members = dict(FIXED_MEMBERS)
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        for member, stub in (
            (WEIGHTS_CONFIG_MEMBER, "weight_{}"),
            (CONSTANTS_CONFIG_MEMBER, "tensor_{}"),
        ):
            config = json.loads(archive.read(member))
            for key, payload in config["config"].items():
                file_name = _stub_payload(key, payload, stub)
                members[f"{member.rpartition('/')[0]}/{file_name}"] = STUB
            members[member] = _dump_json(config)
        graph = json.loads(archive.read(MODEL_MEMBER))
    # Guards check what the manifest checks already, and are executed as Python text.
    graph["guards_code"] = []
    graph["graph_module"]["metadata"] = {}
    nodes = graph["graph_module"]["graph"]["nodes"]
    # These assert that a tensor is where it was at export: on the CPU.
    nodes[:] = [node for node in nodes if node["target"] != _ASSERT_DEVICE]
    for node in nodes:
        node["metadata"] = {}  # stack traces, with the paths of the exporting machine
    members[MODEL_MEMBER] = _dump_json(graph)
    return write_program(members)


def _stub_payload(key: str, payload: dict[str, Any], stub: str) -> str:
    """Point a weight at one zero, repeated by strides of 0; return the zero's file name."""
    meta = payload["tensor_meta"]
    if payload["use_pickle"] or meta is None:
        raise ArchiveInvalid(f"{key!r} is no plain tensor, and cannot be kept as data")
    file_name = stub.format(meta["dtype"])
    meta["strides"] = [{"as_int": 0} for _ in meta["sizes"]]
    meta["storage_offset"] = {"as_int": 0}
    meta["requires_grad"] = False
    payload["path_name"] = file_name
    return file_name


def _dump_json(document: dict[str, Any]) -> bytes:
    # Sorted, since the order in which torch fills some of its tables may vary.
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def check_program(data: bytes) -> dict[str, Any]:
    """Check a program as data.

    Args:
        data: The whole ``program.pt2``, at most ``MAX_PROGRAM_BYTES``.

    Returns:
        The graph as torch serialises it (the parsed ``model.json``).

    Raises:
        ArchiveInvalid: It holds anything that ``pack.py`` does not write.
    """
    members = _read_members(data)
    for name, content in members.items():
        if name in FIXED_MEMBERS and content != FIXED_MEMBERS[name]:
            raise ArchiveInvalid(
                f"program: expected {name} to be {FIXED_MEMBERS[name]!r}, got {len(content)} "
                "other bytes; sample inputs and other formats are not accepted"
            )
        if STUB_MEMBER.fullmatch(name) and content != STUB:
            raise ArchiveInvalid(
                f"program: expected {name} to be empty of weights, got {len(content)} bytes; "
                "weights belong in weights.safetensors"
            )
    for name in (WEIGHTS_CONFIG_MEMBER, CONSTANTS_CONFIG_MEMBER):
        _check_payloads(name, parse_json(name, members[name]), members)
    graph = parse_json(MODEL_MEMBER, members[MODEL_MEMBER])
    _check_graph(graph)
    return graph


def _read_members(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_PROGRAM_BYTES:
        raise ArchiveInvalid(
            f"program: expected at most {MAX_PROGRAM_BYTES} bytes, got {len(data)}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if unknown := [info.filename for info in infos if not _is_member(info.filename)]:
                raise ArchiveInvalid(
                    f"program: expected only what `cw model pack` writes, got {unknown[0][:200]!r}"
                )
            # Before anything is read: sizes are claims, but stored members cannot grow.
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise ArchiveInvalid("program: expected members that are stored, got compressed")
            if sum(info.file_size for info in infos) > len(data):
                raise ArchiveInvalid("program: the members are larger than the file")
            members = {info.filename: archive.read(info) for info in infos}
    except _ZIP_ERRORS as exc:
        raise ArchiveInvalid(f"program: expected a zip file, got an error: {exc}") from exc
    if missing := sorted((FIXED_MEMBERS.keys() | _JSON_MEMBERS) - members.keys()):
        raise ArchiveInvalid(f"program: expected the members {missing}, they are missing")
    if write_program(members) != data:
        raise ArchiveInvalid(
            "program: its members are well, but the zip around them is not as `cw model pack` "
            "writes it (hidden, repeated or reordered parts); pack the model again"
        )
    return members


def _is_member(name: str) -> bool:
    return name in FIXED_MEMBERS or name in _JSON_MEMBERS or bool(STUB_MEMBER.fullmatch(name))


def parse_json(name: str, content: bytes) -> dict[str, Any]:
    """Parse a member that must be a JSON object.

    Raises:
        ArchiveInvalid: It is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ArchiveInvalid(f"program: expected JSON in {name}, got an error: {exc}") from exc
    if not isinstance(document, dict):
        raise ArchiveInvalid(f"program: expected a JSON object in {name}")
    return document


def _check_payloads(name: str, document: dict[str, Any], members: Mapping[str, bytes]) -> None:
    """Check that every weight is a view of a stub: a pickled one would be unpickled."""
    folder = name.rpartition("/")[0]
    payloads = document.get("config")
    if not isinstance(payloads, dict) or document.keys() != {"config"}:
        raise ArchiveInvalid(f"program: expected {name} to hold one object, `config`")
    for key, payload in payloads.items():
        well = (
            isinstance(payload, dict)
            and payload.get("use_pickle") is False
            and isinstance(payload.get("path_name"), str)
            and bool(STUB_MEMBER.fullmatch(f"{folder}/{payload['path_name']}"))
            and f"{folder}/{payload['path_name']}" in members
        )
        if not well:
            raise ArchiveInvalid(
                f"program: expected {key[:200]!r} in {name} to be a stub, not an object of its own"
            )


def _check_graph(graph: dict[str, Any]) -> None:
    """Refuse every part of a graph that torch would evaluate or look up freely."""
    if graph.get("guards_code") != []:
        raise ArchiveInvalid("program: expected no guards_code; it would be executed")
    for key, value in _walk(graph):
        match key:
            case "expr_str":
                if not isinstance(value, str) or not _EXPRESSION.fullmatch(value):
                    raise ArchiveInvalid(
                        f"program: expected a shape made of arithmetic, got {str(value)[:200]!r}; "
                        "it would be evaluated as Python"
                    )
            case "target" | "as_operator":
                _check_operator(value)
            case "metadata" | "custom_obj_values" | "treespec_namedtuple_fields":
                if value:
                    raise ArchiveInvalid(f"program: expected {key} to be empty")
            case "as_custom_obj" | "as_graph":
                raise ArchiveInvalid(f"program: expected tensors and numbers, got {key}")


def _check_operator(target: object) -> None:
    if (
        not isinstance(target, str)
        or not _OPERATOR.fullmatch(target)
        or target.startswith(_FORBIDDEN_OPERATORS)
    ):
        raise ArchiveInvalid(
            f"program: expected an operator of aten or of arithmetic, got {str(target)[:200]!r}"
        )


def _walk(document: object) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of nested JSON objects, without recursion."""
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
