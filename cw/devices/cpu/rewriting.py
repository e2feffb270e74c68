"""Rewrites a program for oneDNN: fewer operators, and weights that are packed beforehand.

- A batch normalisation behind a convolution is folded into its weights.
- Convolutions and fully connected layers take packed weights (`onednn.py`).
- What follows them is done on their way out: the sum with a shortcut, the activation.

The program computes the same up to rounding. What is not recognised stays as it was; a program of
which nothing is recognised comes out as it went in. All of it is done once per program, without its
weights: what has to be done with those is returned, as `Parameter`s that can make themselves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp

from cw.devices.cpu import mutation, onednn
from cw.messages import TensorSpec
from cw.models.torch_dtypes import TORCH_DTYPES

Weights = Mapping[str, torch.Tensor]
"""A model's own weights, by the names of the program's arguments."""

TYPICAL_BATCH: Final = 4
"""Layouts are chosen for this batch size; all others use them, too, at no cost that was seen."""

_LINEAR_ROWS_MIN: Final = 16
"""Fewer rows of input (of all samples) and a packed weight gains nothing: 1 row took 17 us in place
of 8, 16 took 31 in place of 50, 512 took 0.57 ms in place of 1.26 (384 x 384, AMD EPYC)."""

_aten: Final[Any] = torch.ops.aten
_pointwise: Final[Any] = torch.ops.mkldnn

_SIMPLE_ACTIVATIONS: Final[Mapping[Any, str]] = {
    _aten.relu.default: "relu",
    _aten.sigmoid.default: "sigmoid",
    _aten.tanh.default: "tanh",
    _aten.silu.default: "swish",
    _aten.hardswish.default: "hardswish",
}
_CLAMPS: Final = (_aten.hardtanh.default, _aten.clamp.default)
_SIXES: Final = (_aten.relu6.default,) if hasattr(_aten, "relu6") else ()


@attrs.frozen(kw_only=True)
class Parameter:
    """A tensor that the rewritten program takes in place of the model's own weights.

    Attributes:
        name: Of the argument.
        make: Makes it of the model's weights: strided, or packed if `is_packed`.
        is_packed: It is in oneDNN's layout.
    """

    name: str
    make: Callable[[Weights], torch.Tensor]
    is_packed: bool = False


@attrs.frozen(kw_only=True, eq=False)
class Rewritten:
    """A program after the rewriting.

    Attributes:
        module: ``forward(*parameters, *inputs)``.
        parameters: What it takes first, in order.
        why_not: Why it is as it was, in words; empty if it was looked through for what can be done.
    """

    module: fx.GraphModule
    parameters: tuple[Parameter, ...]
    why_not: str = ""

    @property
    def packed(self) -> int:
        """Count the packed parameters."""
        return sum(parameter.is_packed for parameter in self.parameters)


def rewrite(
    module: fx.GraphModule,
    own: Weights,
    inputs: Sequence[TensorSpec],
    *,
    why_not: str = "",
) -> Rewritten:
    """Rewrite a program in place.

    Args:
        module: Takes all weights, then the inputs.
        own: Weights of the right shapes and types, in the order of the arguments; their values
            don't matter.
        inputs: One sample's.
        why_not: A reason to leave the program as it is.

    Returns:
        The program, and the parameters that it takes.
    """
    graph = module.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    named = dict(zip(places, own, strict=False))
    made: list[Parameter] = []
    if not why_not and not onednn.is_available():
        why_not = f"torch {torch.__version__} can't pack weights on this processor"
    if not why_not:
        _note_shapes(module, own, inputs)
        why_not = mutation.take_out(graph) or ""
    if not why_not:
        made = _Rewriter(graph, named).run()
    kept = [_unchanged(name) for place, name in named.items() if place.users]
    for place in named:
        if not place.users:
            graph.erase_node(place)
    graph.lint()
    module.recompile()
    return Rewritten(module=module, parameters=(*made, *kept), why_not=why_not)


def _unchanged(name: str) -> Parameter:
    return Parameter(name=name, make=lambda own: own[name])


def _note_shapes(module: fx.GraphModule, own: Weights, inputs: Sequence[TensorSpec]) -> None:
    """Write each node's shape and type into its ``meta``, without computing anything."""
    with FakeTensorMode() as mode:
        arguments: list[torch.Tensor] = [mode.from_tensor(tensor) for tensor in own.values()]
        for spec in inputs:
            dtype = TORCH_DTYPES[spec.datatype.value]
            arguments.append(torch.empty(TYPICAL_BATCH, *spec.shape, dtype=dtype))
        ShapeProp(module, fake_mode=mode).propagate(*arguments)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


@attrs.define(eq=False)
class _Tail:
    """What follows an operator and can be done on its way out."""

    nodes: list[fx.Node]
    """What the new operator does, in order; the last gives its value."""
    other: fx.Node | None = None
    """Added before the activation."""
    activation: str | None = None
    scalars: tuple[float, ...] = ()

    @property
    def last(self) -> fx.Node:
        """The node whose value the new operator gives."""
        return self.nodes[-1]


class _Rewriter:
    """One run over a graph.

    Args:
        graph: Changed in place.
        named: The placeholders that are weights, and their names.
    """

    def __init__(self, graph: fx.Graph, named: Mapping[fx.Node, str]) -> None:
        self._graph = graph
        self._named = named
        self._first = next(iter(graph.nodes))
        self._made: list[Parameter] = []

    def run(self) -> list[Parameter]:
        """Rewrite what is recognised; return the new parameters, in the order of arguments."""
        for node in list(self._graph.nodes):
            if node.op != "call_function":
                continue
            if node.target is _aten.conv2d.default:
                self._convolution(node)
            elif node.target is _aten.linear.default:
                self._linear(node)
        return self._made

    def _convolution(self, node: fx.Node) -> None:
        defaults = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
        arguments: tuple[Any, ...] = (*node.args, *defaults[len(node.args) :])
        data, weight, bias, stride, padding, dilation, groups = arguments
        shape = _shape(data)
        if node.kwargs or len(shape) != 4 or not self._are_own_floats(weight, bias):
            return
        window = (_pair(stride), _pair(padding), _pair(dilation), groups)
        norm_node = self._norm_behind(node)
        norm = None if norm_node is None else _Norm.of(norm_node, self._named)
        weight_name, bias_name = self._named[weight], self._named.get(bias)

        def make_weight(own: Weights) -> torch.Tensor:
            plain = own[weight_name] if norm is None else norm.weight(own, weight_name)
            return onednn.pack_convolution(plain.contiguous(), *window, input_shape=shape)

        packed = self._parameter(node, "packed", make_weight, is_packed=True)
        if norm is not None:
            bias = self._parameter(node, "shift", lambda own: norm.shift(own, bias_name))
        tail = self._tail([node] if norm_node is None else [node, norm_node], may_add=True)
        stride, padding, dilation, groups = window
        common = (packed, bias, padding, stride, dilation, groups)
        scalars = list(tail.scalars)
        if tail.other is None:
            end = (tail.activation or "none", scalars, "")
            self._replace(tail, _pointwise._convolution_pointwise.default, (data, *common, *end))
        else:
            sum_end = ("add", None, tail.activation, scalars, None)
            target = _pointwise._convolution_pointwise.binary
            self._replace(tail, target, (data, tail.other, *common, *sum_end))

    def _linear(self, node: fx.Node) -> None:
        arguments: tuple[Any, ...] = (*node.args, None)
        data, weight, bias = arguments[:3]
        if node.kwargs or not self._are_own_floats(weight, bias):
            return
        rows = math.prod(_shape(data)[:-1])
        if rows < _LINEAR_ROWS_MIN:
            return
        name = self._named[weight]
        packed = self._parameter(
            node,
            "packed",
            lambda own: onednn.pack_linear(own[name].contiguous(), rows=rows),
            is_packed=True,
        )
        tail = self._tail([node], may_add=False)
        end = (tail.activation or "none", list(tail.scalars), "")
        self._replace(tail, _pointwise._linear_pointwise.default, (data, packed, bias, *end))

    def _are_own_floats(self, weight: Any, bias: Any) -> bool:
        nodes = [weight] if bias is None else [weight, bias]
        return all(
            node in self._named and node.meta["tensor_meta"].dtype is torch.float32
            for node in nodes
        )

    def _norm_behind(self, node: fx.Node) -> fx.Node | None:
        """Find a batch normalisation of inference behind a convolution, with weights of its own."""
        user = _only_user(node)
        if user is None or user.target is not _aten.batch_norm.default or user.args[0] is not node:
            return None
        arguments: tuple[Any, ...] = user.args
        known = all(part is None or part in self._named for part in arguments[1:5])
        is_training = arguments[5] or arguments[3] is None
        return user if known and not is_training and not user.kwargs else None

    def _tail(self, nodes: list[fx.Node], *, may_add: bool) -> _Tail:
        tail = _Tail(nodes)
        user = _only_user(tail.last)
        if may_add and user is not None and user.target is _aten.add.Tensor:
            others: list[Any] = [arg for arg in user.args if arg is not tail.last]
            if len(others) == 1 and not user.kwargs and _is_like(others[0], tail.last):
                tail.other = others[0]
                tail.nodes.append(user)
                user = _only_user(user)
        if user is None or user.kwargs or user.args[0] is not tail.last:
            return tail
        if user.target in _SIMPLE_ACTIVATIONS:
            tail.activation = _SIMPLE_ACTIVATIONS[user.target]
        elif user.target in _SIXES:
            tail.activation, tail.scalars = "hardtanh", (0.0, 6.0)
        elif user.target in _CLAMPS and len(user.args) == 3 and None not in user.args:
            bounds: tuple[Any, ...] = user.args[1:3]
            low, high = bounds
            tail.activation, tail.scalars = "hardtanh", (float(low), float(high))
        if tail.activation is not None:
            tail.nodes.append(user)
        return tail

    def _parameter(
        self,
        node: fx.Node,
        part: str,
        make: Callable[[Weights], torch.Tensor],
        *,
        is_packed: bool = False,
    ) -> fx.Node:
        """Give the program another argument, behind the new ones that it has."""
        name = f"{node.name}_{part}"
        with self._graph.inserting_before(self._first):
            place = self._graph.placeholder(name)
        self._made.append(Parameter(name=name, make=make, is_packed=is_packed))
        return place

    def _replace(self, tail: _Tail, target: Any, arguments: tuple[Any, ...]) -> None:
        with self._graph.inserting_before(tail.last):
            new = self._graph.call_function(target, arguments)
        new.meta = dict(tail.last.meta)
        tail.last.replace_all_uses_with(new)
        for node in reversed(tail.nodes):
            self._graph.erase_node(node)


@attrs.frozen(kw_only=True)
class _Norm:
    """A batch normalisation: ``y = (x - mean) / sqrt(variance + epsilon) * gain + shift``."""

    gain: str | None
    bias: str | None
    mean: str
    variance: str
    epsilon: float

    @classmethod
    def of(cls, node: fx.Node, named: Mapping[fx.Node, str]) -> "_Norm":
        """Read a node that `_norm_behind` found."""
        arguments: tuple[Any, ...] = node.args
        _, gain, bias, mean, variance, _, _, epsilon, *_ = arguments
        return cls(
            gain=named.get(gain),
            bias=named.get(bias),
            mean=named[mean],
            variance=named[variance],
            epsilon=float(epsilon),
        )

    def scale(self, own: Weights) -> torch.Tensor:
        """Per output channel, ``float32[out]``."""
        scale = torch.rsqrt(own[self.variance] + self.epsilon)
        return scale if self.gain is None else scale * own[self.gain]

    def weight(self, own: Weights, name: str) -> torch.Tensor:
        """Scale a convolution's weight."""
        return own[name] * self.scale(own)[:, None, None, None]

    def shift(self, own: Weights, bias: str | None) -> torch.Tensor:
        """Say what is added in the end, given the convolution's own bias."""
        moved = -own[self.mean] if bias is None else own[bias] - own[self.mean]
        shift = moved * self.scale(own)
        return shift if self.bias is None else shift + own[self.bias]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_like(other: Any, node: fx.Node) -> bool:
    """Say whether another summand is a tensor of the same shape and type, so not broadcast."""
    return (
        isinstance(other, fx.Node)
        and other.meta["tensor_meta"].shape == node.meta["tensor_meta"].shape
        and other.meta["tensor_meta"].dtype is node.meta["tensor_meta"].dtype
    )


def _pair(extent: Any) -> list[int]:
    values = [extent] if isinstance(extent, int) else list(extent)
    return values * 2 if len(values) == 1 else values
