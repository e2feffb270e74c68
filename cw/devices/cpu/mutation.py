"""Writing in place, taken out of a program, so that its operators may be moved.

Many networks write into what they have just computed (``relu_``, ``+=``). Where nobody can see that
it was written into, the operator's other form gives the same, into new memory. Where somebody might
(through a view of it, or since it is an input), the order of operators means something, and the
program is left alone.
"""

from typing import Any, Final

import torch
from torch import fx

_MAY_GIVE_ITS_INPUT: Final = frozenset({"dropout", "feature_dropout", "alpha_dropout", "type_as"})
"""Operators that give their input itself at times and don't say so."""


def take_out(graph: fx.Graph) -> str | None:
    """Replace all operators that write in place by those that don't.

    Args:
        graph: Its nodes know their results' types (``meta["tensor_meta"]``); changed only if all
            can be replaced.

    Returns:
        None; or, in words, why it can't be done.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    replacements: dict[fx.Node, Any] = {}
    for node in order:
        if not _writes(node):
            continue
        replacement = _other_form(node)
        if replacement is None or not _is_unseen(node, order):
            return f"{node.name} writes in place"
        replacements[node] = replacement
    for node, target in replacements.items():
        node.target = target
    return None


def _writes(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    return any(each.alias_info is not None and each.alias_info.is_write for each in arguments)


def _other_form(node: fx.Node) -> Any:
    """Find ``add`` for ``add_``: the same arguments, the same result; None if there is none."""
    target: Any = node.target
    name = target._schema.name
    if node.kwargs or not name.startswith("aten::") or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removeprefix("aten::")[:-1], None)
    other = getattr(packet, target._overloadname, None)
    same_count = other and len(other._schema.arguments) == len(target._schema.arguments)
    return other if same_count else None


def _is_unseen(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Say whether only this operator's own result shows what it wrote."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or not (_is_new(written) or _writes(written)):
        return False
    # Else the type of the result might depend on whether there is memory for it already.
    dtypes = {_dtype(each) for each in node.all_input_nodes}
    if len(dtypes) != 1 or None in dtypes:
        return False
    others = [user for user in written.users if user is not node]
    return all(order[user] < order[node] and _is_new(user) for user in others)


def _is_new(node: fx.Node) -> bool:
    """Say whether a node's result is memory that no other node's result is part of."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target._schema.name.removeprefix("aten::") in _MAY_GIVE_ITS_INPUT:
        return False
    return all(each.alias_info is None for each in target._schema.returns)


def _dtype(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta.get("tensor_meta"), "dtype", None)
