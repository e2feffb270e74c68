"""A program's graph read as data: steps of allowed operators on named values, and nothing else.

This is the first half of the safe loader (design/0019). It takes the JSON that
``program.check_program`` returned, believes none of it, and needs no torch; the second half,
``devices/safe_program.py``, makes the steps into a module. A graph may hold tensors, numbers, flags
and a few words; shapes that it claims are not read at all, since the module's own are measured.
"""

import keyword
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from cw.errors import ArchiveInvalid
from cw.models.safe_operators import (
    DATATYPE_CODES,
    FIXED_ARGUMENTS,
    MEMORY_FORMAT_CODES,
    SAFE_ARITHMETIC,
    SAFE_OPERATORS,
)

STEPS_MAX: Final = 5_000
"""Thirty times EfficientNet's. Each is tried at every batch size: some 50 us a time."""

VALUES_MAX: Final = 20_000
LIST_MAX: Final = 1_024
INTEGER_MAX: Final = (1 << 63) - 1
"""``slice`` says "to the end" with it; no size may come near."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_WORD: Final = re.compile(r"[a-z_]{1,32}")
_SYMBOLS: Final = frozenset({"as_int", "as_name"})
_INFINITIES: Final = MappingProxyType({"Infinity": math.inf, "-Infinity": -math.inf})


@attrs.frozen
class Ref:
    """A value made by an earlier step, or given."""

    name: str


@attrs.frozen
class TorchName:
    """A datatype or memory format, by its attribute of ``torch``."""

    name: str


Scalar = bool | int | float | str | None | Ref | TorchName
Value = Scalar | tuple[Scalar, ...]


@attrs.frozen(kw_only=True)
class Input:
    """One argument of a step: its name in the operator's schema (empty in arithmetic)."""

    name: str
    value: Value
    by_keyword: bool


@attrs.frozen(kw_only=True)
class Step:
    """One operator's call.

    Attributes:
        operator: A member of ``SAFE_OPERATORS`` or ``SAFE_ARITHMETIC``.
        inputs: In the graph's order.
        outputs: What to call its results.
        is_tuple: The operator returns a tuple or list, of which `outputs` are the parts.
    """

    operator: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    is_tuple: bool


@attrs.frozen(kw_only=True)
class SafeGraph:
    """A program as steps; every name is defined once, before its use."""

    arguments: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def read_safe_graph(document: Mapping[str, Any]) -> SafeGraph:
    """Read a graph that ``program.check_program`` returned.

    Raises:
        ArchiveInvalid: It holds anything but allowed operators and plain values; says which.
    """
    try:
        return _Reader(document).read()
    # Foreign JSON: whatever is missing or of another type shows as one of these.
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as exc:
        raise ArchiveInvalid(
            f"program: its graph is not as torch.export writes it ({type(exc).__name__}: {exc}); "
            "pack the model again with a version of torch that cw supports"
        ) from exc


class _Reader:
    """One pass over a graph."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._graph = document["graph_module"]["graph"]
        self._known: set[str] = set()

    def read(self) -> SafeGraph:
        nodes = self._graph["nodes"]
        if not isinstance(nodes, list) or len(nodes) > STEPS_MAX:
            raise ArchiveInvalid(f"program: expected a list of at most {STEPS_MAX} operators")
        arguments = tuple(
            self._define(_only(item, "as_tensor")["name"])
            for item in _bounded(self._graph["inputs"], VALUES_MAX)
        )
        steps = tuple(self._step(node) for node in nodes)
        outputs = tuple(
            self._use(_only(item, "as_tensor")["name"]).name
            for item in _bounded(self._graph["outputs"], LIST_MAX)
        )
        return SafeGraph(arguments=arguments, steps=steps, outputs=outputs)

    def _step(self, node: Mapping[str, Any]) -> Step:
        operator = node["target"]
        if not isinstance(operator, str) or (
            operator not in SAFE_OPERATORS and operator not in SAFE_ARITHMETIC
        ):
            raise ArchiveInvalid(
                f"program: the operator {str(operator)[:200]!r} is not among those that a program "
                "may use which no administrator has allowed: write it with others "
                "(docs/models.md lists them; one that ends in _ writes in place: use the plain "
                "one), or ask an administrator to allow the program"
            )
        inputs = tuple(self._input(operator, item) for item in _bounded(node["inputs"], LIST_MAX))
        outputs, is_tuple = self._outputs(node["outputs"])
        return Step(operator=operator, inputs=inputs, outputs=outputs, is_tuple=is_tuple)

    def _input(self, operator: str, item: Mapping[str, Any]) -> Input:
        name, kind = item["name"], item["kind"]
        if not isinstance(name, str) or (name and not _is_identifier(name)):
            raise ArchiveInvalid(f"program: {operator} has an argument called {str(name)[:80]!r}")
        if kind not in {1, 2} or isinstance(kind, bool):
            raise ArchiveInvalid(f"program: {operator} has an argument of kind {str(kind)[:80]!r}")
        ((field, body),) = item["arg"].items()
        if field not in _READERS:
            raise ArchiveInvalid(
                f"program: argument {name!r} of {operator} is {field[:80]!r}; expected tensors, "
                "numbers, flags and words only"
            )
        value = _READERS[field](self, body)
        allowed = FIXED_ARGUMENTS.get(name)
        if allowed is not None and value not in allowed:
            raise ArchiveInvalid(
                f"program: argument {name!r} of {operator} is {value!r}, expected {allowed[0]!r}; "
                "export the model in evaluation mode (model.eval())"
            )
        return Input(name=name, value=value, by_keyword=kind == 2)

    def _outputs(self, items: list[Mapping[str, Any]]) -> tuple[tuple[str, ...], bool]:
        if len(items) == 1 and "as_tensors" in items[0]:
            parts = _bounded(_only(items[0], "as_tensors"), LIST_MAX)
            return tuple(self._define(part["name"]) for part in parts), True
        names = []
        for item in _bounded(items, LIST_MAX):
            ((field, body),) = item.items()
            if field not in {"as_tensor", "as_sym_int"}:
                raise ArchiveInvalid(f"program: an operator gives {field[:80]!r}, expected tensors")
            names.append(
                self._define(body["name"] if field == "as_tensor" else _only(body, "as_name"))
            )
        if not names:
            raise ArchiveInvalid("program: an operator gives nothing; take it out of forward()")
        return tuple(names), len(names) > 1

    def _define(self, name: str) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in self._known:
            raise ArchiveInvalid(f"program: expected new names of values, got {str(name)[:80]!r}")
        if len(self._known) >= VALUES_MAX:
            raise ArchiveInvalid(f"program: expected at most {VALUES_MAX} values")
        self._known.add(name)
        return name

    def _use(self, name: str) -> Ref:
        if name not in self._known:
            raise ArchiveInvalid(
                f"program: {str(name)[:80]!r} is used before it is made; a graph has no cycles"
            )
        return Ref(name)

    def tensor(self, body: Mapping[str, Any]) -> Ref:
        return self._use(body["name"])

    def tensors(self, body: Any) -> tuple[Scalar, ...]:
        return tuple(self._use(part["name"]) for part in _bounded(body, LIST_MAX))

    def size(self, body: Mapping[str, Any]) -> Scalar:
        ((field, value),) = body.items()
        if field not in _SYMBOLS:
            raise ArchiveInvalid(f"program: a size is {field[:80]!r}, expected a number or a name")
        return _integer(value) if field == "as_int" else self._use(value)


def _only(item: Mapping[str, Any], field: str) -> Any:
    if item.keys() != {field}:
        raise ArchiveInvalid(f"program: expected {field}, got {str(sorted(item))[:200]}")
    return item[field]


def _bounded(items: Any, count_max: int) -> list[Any]:
    if not isinstance(items, list) or len(items) > count_max:
        raise ArchiveInvalid(f"program: expected a list of at most {count_max}")
    return items


def _is_identifier(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and (name == "self" or not keyword.iskeyword(name))


def _integer(value: Any) -> int:
    if type(value) is not int or not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise ArchiveInvalid(f"program: expected a number of 64 bits, got {str(value)[:80]!r}")
    return value


def _float(value: Any) -> float:
    number = _INFINITIES.get(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise ArchiveInvalid(f"program: expected a number, got {str(value)[:80]!r}")
    return float(number)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ArchiveInvalid(f"program: expected true or false, got {str(value)[:80]!r}")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ArchiveInvalid(f"program: expected a word, got {str(value)[:80]!r}")
    return value


def _cpu(body: Mapping[str, Any]) -> str:
    if body["type"] != "cpu" or body.get("index") is not None:
        raise ArchiveInvalid(f"program: expected the device cpu, got {str(body)[:80]}")
    return "cpu"


def _strided(body: Any) -> None:
    if body != 7:
        raise ArchiveInvalid(f"program: expected strided tensors, got layout {str(body)[:80]}")


def _each(read: Callable[[Any], Scalar]) -> Callable[[_Reader, Any], Value]:
    return lambda _reader, body: tuple(read(part) for part in _bounded(body, LIST_MAX))


_READERS: Final[Mapping[str, Callable[[_Reader, Any], Value]]] = MappingProxyType(
    {
        "as_none": lambda _reader, _body: None,
        "as_tensor": lambda reader, body: reader.tensor(body),
        "as_tensors": lambda reader, body: reader.tensors(body),
        "as_int": lambda _reader, body: _integer(body),
        "as_float": lambda _reader, body: _float(body),
        "as_bool": lambda _reader, body: _flag(body),
        "as_string": lambda _reader, body: _word(body),
        "as_ints": _each(_integer),
        "as_floats": _each(_float),
        "as_bools": _each(_flag),
        "as_sym_int": lambda reader, body: reader.size(body),
        "as_sym_ints": lambda reader, body: tuple(
            reader.size(part) for part in _bounded(body, LIST_MAX)
        ),
        "as_scalar_type": lambda _reader, body: TorchName(DATATYPE_CODES[body]),
        "as_memory_format": lambda _reader, body: TorchName(MEMORY_FORMAT_CODES[body]),
        "as_device": lambda _reader, body: _cpu(body),
        "as_layout": lambda _reader, body: _strided(body),
    }
)
"""The kinds of argument that are data, and how each is read."""
