"""No pickle anywhere: unpickling runs what the bytes say, so foreign bytes must never get there.

Also nothing that evaluates text. What torch does by itself is `cw/models/program.py`'s concern.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNPICKLERS = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
}  # fmt: skip
ASKED_TO_REFUSE = {
    ("np", "load"): ("allow_pickle", False),
    ("torch", "load"): ("weights_only", True),
}
"""Calls that would unpickle unless told not to: what they must be told, in so many words."""
EVALUATING = {"eval", "exec"}


def python_files():
    """Yield all Python of the project, scripts without a suffix included."""
    for path in sorted([*ROOT.glob("cw/**/*.py"), *ROOT.glob("tools/*")]):
        if path.is_file() and (path.suffix == ".py" or path.read_bytes()[:2] == b"#!"):
            yield path


def problems_of(tree):
    """Yield (line, what is wrong) of one file."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported = [name.name for name in names]
            case ast.ImportFrom(module=module):
                imported = [module or ""]
            case _:
                imported = []
        for name in imported:
            if name.split(".")[0] in UNPICKLERS:
                yield node.lineno, f"imports {name}"
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in EVALUATING:
                yield node.lineno, f"calls {name}()"
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
                wanted = ASKED_TO_REFUSE.get((owner, attribute))
                said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                if wanted is not None and said.get(wanted[0]) is not wanted[1]:
                    yield node.lineno, f"{owner}.{attribute} without {wanted[0]}={wanted[1]}"


def test_nothing_unpickles_or_evaluates():
    """One such line would turn a file or a message into code with the executor's rights."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in python_files()
        for line, what in problems_of(ast.parse(path.read_bytes()))
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "import numpy as np\nnp.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
    ],
)
def test_the_scan_would_see_it(line):
    """A scan that finds nothing must be one that could."""
    assert list(problems_of(ast.parse(line)))
