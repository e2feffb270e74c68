"""The house rules that no linter knows: layers, purity, sizes, words, and what lies where.

Each check reads the sources and names what breaks a rule as ``path:line``, with the way to
mend it. A rule that is wrong is changed here, in the open, with its reason.
"""

import ast
import fnmatch
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# From the bottom up. A module belongs to the longest prefix that fits it. It may import
# from lower layers, and from its own prefix.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cw.units", "cw.errors"),
    ("cw.messages", "cw.config"),
    ("cw.core",),
    ("cw.rpc.ports", "cw.devices.device", "cw.models", "cw.catalog", "cw.tls", "cw.arrays",
     "cw.metering"),
    ("cw.actors",),
    ("cw.rpc", "cw.devices", "cw.http"),
    ("cw.client",),
    ("cw.sim", "cw.workload", "cw.records", "cw.doctor"),
    ("cw", "cw.cli", "cw.__main__", "cw.benchmarks"),
)  # fmt: skip
# Who may import a neighbour of the same layer, and why.
NEIGHBOURS = {
    ("cw.errors", "cw.units"),  # A message says a duration as people do.
    ("cw.units", "cw.errors"),  # A duration that cannot be read is a ConfigError.
    ("cw.cli", "cw"),  # `cw --version`.
    ("cw.benchmarks", "cw.cli"),  # A cluster to measure is composed as any other.
    ("cw.__main__", "cw.cli"),  # `python -m cw` is the command.
    ("cw.doctor", "cw.records"),  # What executors wrote down is a finding's evidence.
    ("cw.records", "cw.sim"),  # Pictures have one look.
    ("cw.sim", "cw.workload"),  # The simulator replays the traces that the load generator sends.
}
# Third parties that only these paths may import, so that the rest runs and is tested without.
CONFINED = {
    "capnp": ("cw/rpc/",),
    "alembic": ("cw/catalog/",),
    "sqlalchemy": ("cw/catalog/",),
    "torch": (
        "cw/benchmarks/models.py",
        "cw/benchmarks/peers/servers/",  # They run in the peers' own environments.
        "cw/devices/",
        "cw/models/pack.py",
        "cw/models/torch_dtypes.py",
        "cw/models/examples/",
    ),
    "cuda": ("cw/devices/",),
}
CORE_THIRD_PARTIES = {"attrs", "attr", "sortedcontainers"}
# What of the standard library brings a clock, randomness, I/O or concurrency.
IMPURE = {
    "asyncio", "concurrent", "ctypes", "datetime", "io", "mmap", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3",
    "ssl", "subprocess", "sys", "tempfile", "threading", "time", "trio", "urllib", "uuid",
}  # fmt: skip
IMPURE_CALLS = {
    "now", "now_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
    "time", "time_ns", "utcnow", "today",
}  # fmt: skip
IMPURE_BUILTINS = {"open", "print", "input"}

TOP_LEVEL = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "README.md", "cw", "docs", "newsfragments", "pyproject.toml", "schemas", "tests", "tools",
    "tox.ini",
}  # fmt: skip

# Spelt apart, so that this file does not find itself.
FORBIDDEN = {
    r"\bTO"
    + r"DO\b|\bFIX"
    + r"ME\b|\bXX"
    + r"X\b": "finish it, or open an issue and take the note out",
    r"\bsha" + r"red/[\w-]+\.md\b": "cite a paper, or a note in docs/design/",
    r"(?<![\w.{}-])/(work|root|home|Users)"
    + r"/\w": "a path of one machine: make it relative or an argument",
}
TEXT_SUFFIXES = {
    "",
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".ini",
    ".yaml",
    ".yml",
    ".capnp",
    ".c",
    ".json",
}


@attrs.frozen
class Source:
    """A Python file of the project, parsed."""

    path: Path
    tree: ast.Module
    line_count: int

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def at(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}"

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Yield each import, also those inside functions, as (node, absolute name)."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node, alias.name
            elif isinstance(node, ast.ImportFrom):
                package = (
                    self.module
                    if self.path.name == "__init__.py"
                    else self.module.rpartition(".")[0]
                )
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(parents) if node.level else ""
                base = ".".join(part for part in (base, node.module) if part)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node, inner if _is_module(inner) else base


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@functools.cache
def _sources(folder: str) -> tuple[Source, ...]:
    found = []
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix == ".py" or (folder == "tools" and _is_script(path)):
            text = path.read_text(encoding="utf-8")
            found.append(Source(path, ast.parse(text, str(path)), text.count("\n")))
    return tuple(found)


def _is_script(path: Path) -> bool:
    if not path.is_file() or path.suffix:
        return False
    return "python" in path.read_bytes()[:40].decode("utf-8", "replace")


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _prefix(module: str) -> tuple[int, str]:
    """Return the layer's number and the longest prefix of LAYERS that holds ``module``."""
    fits = [
        (rank, prefix)
        for rank, layer in enumerate(LAYERS)
        for prefix in layer
        if module == prefix or (prefix != "cw" and module.startswith(prefix + "."))
    ]
    assert fits, f"{module} is in no layer: add it to LAYERS in tests/test_tidy.py"
    return max(fits, key=lambda fit: len(fit[1]))


def _may_import(importer: str, imported: str) -> bool:
    rank, prefix = _prefix(importer)
    other_rank, other_prefix = _prefix(imported)
    return other_rank < rank or prefix == other_prefix or (prefix, other_prefix) in NEIGHBOURS


def _tracked_text() -> Iterator[tuple[str, int, str]]:
    """Yield (path, line number, line) of all text in the checkout that git would take."""
    ignored = _ignored_patterns()
    for top in sorted(TOP_LEVEL):
        start = ROOT / top
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            inside = path.relative_to(ROOT)
            if not path.is_file() or path.suffix not in TEXT_SUFFIXES or _ignored(inside, ignored):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                yield inside.as_posix(), number, line


def _ignored_patterns() -> list[str]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _ignored(inside: Path, patterns: list[str]) -> bool:
    return any(
        fnmatch.fnmatch(part, pattern) or fnmatch.fnmatch(inside.as_posix(), pattern + "*")
        for pattern in patterns
        for part in inside.parts
    )


def _explain(problems: list[str], how: str) -> str:
    return f"{how}\n  " + "\n  ".join(problems)


def test_imports_point_down():
    """Layers keep the scheduler testable without a network, and actors without a device."""
    problems = [
        f"{source.at(node)}: {source.module} imports {name}"
        for source in _sources("cw")
        for node, name in source.imports()
        if name.split(".")[0] == "cw" and not _may_import(source.module, name)
    ]

    assert not problems, _explain(
        problems, "Depend on something lower, or be handed it by cw/cli/compose.py (see LAYERS):"
    )


def test_only_compose_puts_parts_together():
    """One file shows the whole assembly: a command cannot wire a cluster of its own."""
    problems = []
    for source in _sources("cw/cli"):
        names = {_prefix(name)[1] for _, name in source.imports() if name.startswith("cw.")}
        if source.path.name != "compose.py" and {"cw.actors", "cw.devices"} <= names:
            problems.append(f"{source.name}: imports both actors and devices")

    assert not problems, _explain(problems, "Move the assembly to cw/cli/compose.py and call it:")


@pytest.mark.parametrize("library", sorted(CONFINED))
def test_heavy_libraries_stay_behind_their_door(library: str):
    """A client starts without torch, a decision is tested without the C++ of Cap'n Proto."""
    problems = [
        f"{source.at(node)}: imports {name}"
        for source in _sources("cw")
        for node, name in source.imports()
        if name.split(".")[0] == library and not source.name.startswith(CONFINED[library])
    ]

    assert not problems, _explain(
        problems, f"Only {', '.join(CONFINED[library])} may import {library}:"
    )


def test_core_imports_nothing_impure():
    """The same events and times must give the same commands: in production, test and replay."""
    allowed = (set(sys.stdlib_module_names) - IMPURE) | CORE_THIRD_PARTIES | {"cw"}
    problems = [
        f"{source.at(node)}: imports {name}"
        for source in _sources("cw/core")
        for node, name in source.imports()
        if name.split(".")[0] not in allowed
    ]

    assert not problems, _explain(
        problems, "cw/core/ decides and nothing else: take the value as an argument instead:"
    )


def test_core_calls_no_clock_and_never_waits():
    """Time is an argument, so that a year can be simulated in a minute, and repeated."""
    problems = []
    for source in _sources("cw/core"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                called = node.func
                builtin, method = getattr(called, "id", None), getattr(called, "attr", None)
                name = builtin or method
                if name in IMPURE_CALLS or builtin in IMPURE_BUILTINS:
                    problems.append(f"{source.at(node)}: calls {name}()")
            elif isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                problems.append(f"{source.at(node)}: is async")

    assert not problems, _explain(
        problems, "In cw/core/, take `now_ns` as a keyword argument; leave waiting to cw/actors/:"
    )


def test_no_channel_is_unbounded():
    """Every queue has a bound: under overload memory must not be what gives way."""
    problems = []
    for source in _sources("cw"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and "channel" in ast.unparse(node.func):
                infinite = [arg for arg in node.args if "inf" in ast.unparse(arg).split(".")]
                problems += [f"{source.at(arg)}: {ast.unparse(node)}" for arg in infinite]

    assert not problems, _explain(
        problems, "Give it a bound from cw/config.py, and an answer to 'full':"
    )


@pytest.mark.parametrize("folder", ["cw", "tools", "tests", "docs"])
def test_files_are_short(folder: str):
    """One concept, one file: what does not fit has usually become two."""
    problems = [
        f"{source.name}: {source.line_count} lines"
        for source in _sources(folder)
        if source.line_count >= FILE_LINES_MAX
    ]

    assert not problems, _explain(
        problems, f"Move a concept to a file of its own (under {FILE_LINES_MAX} lines):"
    )


@pytest.mark.parametrize("folder", ["cw", "tools", "tests"])
def test_functions_are_short(folder: str):
    """A function that fits on a screen can be checked by reading it."""
    problems = [
        f"{source.at(function)}: {function.name}() has {length} lines"
        for source in _sources(folder)
        for function in _functions(source)
        if (length := (function.end_lineno or 0) - function.lineno + 1) >= FUNCTION_LINES_MAX
    ]

    assert not problems, _explain(
        problems, f"Split it where it changes its subject (under {FUNCTION_LINES_MAX} lines):"
    )


def test_every_test_says_why_it_matters():
    """Whoever breaks a test must learn what is lost, not only what differs."""
    problems = [
        f"{source.at(function)}: {function.name}"
        for source in _sources("tests")
        if source.path.name.startswith("test_")
        for function in _functions(source)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]

    assert not problems, _explain(problems, "Add a docstring that says why the fact matters:")


def test_paths_named_in_the_docs_exist():
    """The pages that lead into the code must not lead astray."""
    named = re.compile(r"`((?:cw|tools|tests|docs|schemas|newsfragments)/[\w./-]*)`")
    problems = [
        f"{page}:{number}: {path}"
        for page in ("README.md", "CONTRIBUTING.md", "docs/follow-a-request.md")
        if (ROOT / page).exists()  # that they do is asked below, and by CONTRIBUTING.md's own names
        for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1)
        for path in named.findall(line)
        if not (ROOT / path).exists()
    ]

    assert not problems, _explain(problems, "Name the file where this now lives:")


def test_top_level_holds_what_it_should():
    """A newcomer reads the top level first; nothing may lie there by accident."""
    ignored = _ignored_patterns()
    here = {path.name for path in ROOT.iterdir() if not _ignored(Path(path.name), ignored)} - {
        ".git"
    }

    assert here == TOP_LEVEL, (
        f"not expected: {sorted(here - TOP_LEVEL)}; missing: {sorted(TOP_LEVEL - here)}. Put it in "
        "a folder, or add it to TOP_LEVEL with its reason."
    )


@pytest.mark.parametrize("pattern", sorted(FORBIDDEN))
def test_no_forbidden_words(pattern: str):
    """What is unfinished, or works on one machine only, is not handed to others."""
    wanted: Callable[[str], re.Match[str] | None] = re.compile(pattern).search
    problems = [
        f"{path}:{number}: {line.strip()}" for path, number, line in _tracked_text() if wanted(line)
    ]

    assert not problems, _explain(problems, f"{FORBIDDEN[pattern]}:")


def test_the_checks_see_what_they_should():
    """A check that finds no files passes for ever: the sources must really be read."""
    assert {"cw.messages", "cw.core.events"} <= {source.module for source in _sources("cw")}
    assert "tools/test" in {source.name for source in _sources("tools")}
    assert _may_import("cw.actors.gateway", "cw.rpc.ports")
    assert not _may_import("cw.actors.gateway", "cw.rpc.client")
    assert not _may_import("cw.core.scheduler", "cw.actors.clock")
