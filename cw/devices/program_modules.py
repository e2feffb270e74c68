"""From a checked program to a module.

Torch's own loader reads those that an administrator vouches for; all others are rebuilt from their
graph's data (``safe_program.py``; design/0019). Both give the same kind of module, so whoever
rewrites, captures or calls it need not know which it was.
"""

import io

import torch
from torch import fx

from cw.devices.fitting import CheckedProgram
from cw.devices.safe_program import build_module
from cw.errors import ArchiveInvalid
from cw.messages import ModelSpec
from cw.models.program import check_program
from cw.models.safe_graph import read_safe_graph


def load_module(checked: CheckedProgram, model: ModelSpec) -> fx.GraphModule:
    """Make a program's module: ``forward(*weights, *inputs)``, a tuple of outputs.

    Args:
        checked: The program; torch's loader sees it only if it is allowed.
        model: Its first model, at whose batch sizes a program that is not allowed is tried.

    Raises:
        ArchiveInvalid: This version of torch can't read it; or it isn't allowed, and holds what
            no program may hold that nobody vouches for.
    """
    if not checked.is_allowed:
        graph = read_safe_graph(check_program(checked.data))
        return build_module(graph, checked.signature, model)
    try:
        module: fx.GraphModule = torch.export.load(io.BytesIO(checked.data)).graph_module
    # The loader is foreign and documents no errors; none of them is the device's.
    except Exception as exc:
        raise ArchiveInvalid(
            f"program: torch {torch.__version__} can't load it ({type(exc).__name__}: {exc}); "
            "pack it with a version of torch that cw supports"
        ) from exc
    return module
