"""``cw model pack``: archives from torch modules, exports and the example models. Needs torch."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, Final

import attrs

from cw.cli.common import people
from cw.errors import ConfigError
from cw.messages import Datatype, TensorSpec
from cw.models.archive import Archive
from cw.models.examples.example import Example
from cw.models.pack import DEFAULT_BATCH_SIZES, load_export, pack_weights
from cw.models.pack import pack as pack_module
from cw.units import format_bytes

_EXAMPLES: Final = {
    "minilm": ("minilm", "MINILM"),
    "efficientnet-lite0": ("efficientnet", "EFFICIENTNET"),
    "resnet18": ("resnet", "RESNET18"),
    "tiny-cnn": ("tiny", "CNN"),
    "tiny-mlp": ("tiny", "MLP"),
}


def example(name: str) -> Example:
    """Find one of the example models.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in _EXAMPLES:
        raise ConfigError(f"no example is named {name!r}; there are {', '.join(_EXAMPLES)}")
    module, attribute = _EXAMPLES[name]
    found: Example = getattr(importlib.import_module(f"cw.models.examples.{module}"), attribute)
    return found


def pack(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        archives = _pack_copies(args) if args.copies else [_pack_one(args)]
    except (OSError, ModuleNotFoundError) as exc:
        raise ConfigError(str(exc)) from exc
    for archive in archives[:1]:
        manifest = archive.manifest
        people.print(
            f"packed {manifest.name}: weights {format_bytes(manifest.image_bytes)}, "
            f"program {manifest.program_sha256[:12]}..., "
            f"equal to the module's outputs within {manifest.tolerance:g} of the largest"
        )
    if len(archives) > 1:
        people.print(f"and {len(archives) - 1} more weight sets of the same program in {args.out}")
    return 0


def _pack_one(args: argparse.Namespace) -> Archive:
    kind, _, rest = args.source.partition(":")
    if kind == "example":
        return _sized(example(rest), args).pack(args.out, name=args.name, seed=args.seed)
    inputs = tuple(_tensor(word) for word in args.input)
    if not inputs:
        raise ConfigError("say what the module takes: --input NAME:DATATYPE:3x224x224")
    if args.source.endswith(".pt2"):
        name, module = Path(args.source).stem, load_export(Path(args.source))
    else:
        name, module = rest.rpartition(".")[2], _factory(args.source)()
    return pack_module(
        module,
        name=args.name or name,
        inputs=inputs,
        output_names=tuple(args.output) or ("output",),
        batch_sizes=_batch_sizes(args) or DEFAULT_BATCH_SIZES,
        out=args.out,
    )


def _sized(chosen: Example, args: argparse.Namespace) -> Example:
    """Give an example the batch sizes that were asked for, if any were."""
    return attrs.evolve(chosen, batch_sizes=_batch_sizes(args) or chosen.batch_sizes)


def _batch_sizes(args: argparse.Namespace) -> tuple[int, ...]:
    words = args.batch_sizes.split(",") if args.batch_sizes else []
    try:
        return tuple(int(word) for word in words)
    except ValueError as exc:
        raise ConfigError(f"expected --batch-sizes 1,2,4,..., got {args.batch_sizes!r}") from exc


def _pack_copies(args: argparse.Namespace) -> list[Archive]:
    kind, _, rest = args.source.partition(":")
    if kind != "example":
        raise ConfigError("--copies needs an example with seeded weights, e.g. example:tiny-cnn")
    chosen = _sized(example(rest), args)
    name = args.name or chosen.name
    args.out.mkdir(parents=True, exist_ok=True)
    first = chosen.pack(args.out / f"{name}-000", name=f"{name}-000", seed=args.seed)
    archives = [first]
    for index in range(1, args.copies):
        copy = f"{name}-{index:03}"
        weights = chosen.build(args.seed + index).state_dict()
        archives.append(pack_weights(first, weights, name=copy, out=args.out / copy))
    return archives


def _factory(source: str) -> Any:
    module, _, attribute = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(
            f"expected example:NAME, package.module:factory or FILE.pt2, got {source!r}: {exc}"
        ) from exc


def _tensor(word: str) -> TensorSpec:
    try:
        name, datatype, shape = word.split(":")
        dimensions = tuple(int(size) for size in shape.split("x")) if shape else ()
        return TensorSpec(name=name, datatype=Datatype(datatype), shape=dimensions)
    except ValueError as exc:
        known = ", ".join(kind.value for kind in Datatype)
        raise ConfigError(
            f"expected --input NAME:DATATYPE:3x224x224 with one of {known}, got {word!r}"
        ) from exc
