"""Pack, add, list, show, route and remove models.

Examples:
  cw model pack example:minilm --out minilm/
  cw model pack mypackage.nets:make_net --input image:FP32:3x224x224 --output logits --out net/
  cw model add minilm/ --allow-program
  cw model list
  cw model add newer-minilm/ --no-switch
  cw model route minilm v2=10%
  cw model route minilm --promote
  cw model rollback minilm
"""

import argparse
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cw.cli.common import (
    Endpoint,
    add_connection,
    admin_key,
    administered,
    connected,
    count,
    find_cluster,
    people,
    print_json,
    results,
    run_async,
)
from cw.cli.status import model_json, models_table
from cw.cli.upload import send_archive
from cw.cli.versions import rollback, route, share, version, versions, wait_current
from cw.client import Client
from cw.errors import ConfigError, CwError, UnknownVersion
from cw.messages import CatalogOrder, CatalogVerb, ModelSpec, ModelState, ModelStatus
from cw.models.archive import FILE_BYTES_MAX, read_manifest
from cw.rpc.ports import AdminPort

_UPLOADS_MAX = 4
"""Models added side by side: enough to keep the store busy while executors prepare."""
_POLL_S = 0.05
_PATIENCE_S = 2.0
"""Then it is worth a remark that nothing can happen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    pack = verbs.add_parser("pack", help="make archives from a torch module, export or example")
    pack.add_argument("source", help="example:NAME, package.module:factory, or FILE.pt2")
    pack.add_argument("--out", type=Path, required=True, help="folder to make")
    pack.add_argument("--name", help="the model's name; by default the source's")
    pack.add_argument("--seed", type=int, default=0, help="of random weights")
    pack.add_argument(
        "--copies",
        type=count,
        help="make OUT/NAME-000, ... with weights of seeds SEED, SEED+1, ...",
    )
    pack.add_argument("--input", action="append", default=[], metavar="NAME:DATATYPE:3x224x224")
    pack.add_argument("--output", action="append", default=[], metavar="NAME")
    pack.add_argument("--batch-sizes", metavar="1,2,4", help="default 1,2,4,8,16")
    add = verbs.add_parser("add", help="upload, verify and profile models")
    add.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    add.add_argument(
        "--allow-program",
        action="store_true",
        help="put their programs on the allow-list: torch loads those as code, with no check of "
        "their operators, so only for archives whose maker you trust",
    )
    add.add_argument(
        "--no-switch",
        action="store_true",
        help="of a name that exists: keep the current version; 'cw model route' gives this one "
        "a share of the requests",
    )
    add.add_argument("--no-wait", action="store_true", help="do not wait for the profile")
    listing = verbs.add_parser("list", help="list the models")
    show = verbs.add_parser("show", help="show one model and its profile")
    remove = verbs.add_parser("remove", help="remove models; what is promised is still answered")
    listed = verbs.add_parser("versions", help="show which versions a name has, and their roles")
    back = verbs.add_parser("rollback", help="make an earlier version of a name current")
    back.add_argument("--to", type=version, metavar="V", help="by default the one before")
    canary = verbs.add_parser("route", help="give versions beside the current one their shares")
    canary.add_argument("--promote", action="store_true", help="make the canary current")
    canary.add_argument("--abort", action="store_true", help="end all canaries")
    for verb in (show, listed, back, canary):
        verb.add_argument("name", metavar="NAME")
    pin = verbs.add_parser("pin", help="keep a model resident; refused if it does not fit")
    unpin = verbs.add_parser("unpin", help="let a model be unloaded again")
    sharing = verbs.add_parser("share", help="let another tenant see and call a model")
    unshare = verbs.add_parser("unshare", help="take that back")
    for verb in (pin, unpin, sharing, unshare):
        verb.add_argument("name", metavar="NAME")
        add_connection(verb)
    for verb in (sharing, unshare):
        verb.add_argument("--with", dest="tenant", required=True, metavar="TENANT")
    add.add_argument(
        "--tenant",
        default="",
        help="whose they are; by default nobody's: theirs "
        "whose key is the administrator's, or all where there are no tenants",
    )
    canary.add_argument("shares", type=share, nargs="*", metavar="V=PERCENT")
    remove.add_argument("names", nargs="+", metavar="NAME")
    for verb in (add, listing, show, remove, listed, back, canary):
        add_connection(verb)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.verb == "pack":
        from cw.cli.pack import pack  # needs torch, the rest does not

        return pack(args)
    work = {
        "add": _add,
        "list": _list,
        "show": _show,
        "remove": _remove,
        "versions": versions,
        "rollback": rollback,
        "route": route,
        "pin": _order,
        "unpin": _order,
        "share": _order,
        "unshare": _order,
    }[args.verb]
    run_async(work, args)
    return 0


async def _order(args: argparse.Namespace) -> None:
    order = CatalogOrder(
        verb=CatalogVerb(f"{args.verb}Model"),
        model=args.name,
        tenant=getattr(args, "tenant", ""),
    )
    async with administered(args) as admin:
        await admin.catalog(order)
    people.print(f"{args.verb}: {args.name}")
    if args.json:
        print_json({args.verb: args.name})


async def _list(args: argparse.Namespace) -> None:
    async with connected(find_cluster(args), args.key) as client:
        models = tuple(await client.models())
    if args.json:
        print_json({"models": [model_json(model) for model in models]})
    else:
        results.print(models_table(models))


async def _show(args: argparse.Namespace) -> None:
    async with connected(find_cluster(args), args.key) as client:
        model = await client.model(args.name)
    if args.json:
        print_json(model_json(model))
    else:
        results.print(models_table((model,)))


async def _remove(args: argparse.Namespace) -> None:
    endpoint = find_cluster(args)
    async with connected(endpoint, args.key) as client:
        admin = await client.serving.admin(admin_key(endpoint))
        for name in args.names:
            await admin.remove_model(name)
            people.print(f"removed {name}")
    if args.json:
        print_json({"removed": args.names})


async def _add(args: argparse.Namespace) -> None:
    endpoint = find_cluster(args)
    folders = list(args.folders)
    async with connected(endpoint, args.key) as client:
        added = await add_models(
            client,
            endpoint,
            folders,
            allow_program=args.allow_program,
            wait=not args.no_wait,
            hold=args.no_switch,
            tenant=args.tenant,
        )
    if args.json:
        print_json({"models": [model_json(model) for model in added]})
    elif not args.no_wait:
        results.print(models_table(tuple(added)))


@attrs.define(eq=False)
class _Adding:
    """One run of `add_models`: what its tasks share."""

    client: Client
    admin: AdminPort
    progress: Progress
    limit: trio.CapacityLimiter
    wait: bool
    hold: bool
    tenant: str
    added: dict[Path, ModelStatus] = attrs.field(factory=dict)


async def add_models(
    client: Client,
    endpoint: Endpoint,
    folders: Sequence[Path],
    *,
    allow_program: bool,
    wait: bool = True,
    hold: bool = False,
    tenant: str = "",
) -> list[ModelStatus]:
    """Upload archives side by side and wait until they are profiled, with progress bars.

    Raises:
        ArchiveInvalid, ManifestInvalid, ModelConflict, ProgramNotAllowed: As the store says.
        ConfigError: A model could not be prepared by any executor.
    """
    admin = await client.serving.admin(admin_key(endpoint))
    hashes = {read_manifest(folder).program_sha256 for folder in folders}
    if allow_program:
        for digest in sorted(hashes):
            await admin.allow_program(digest)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=people) as progress:
        adding = _Adding(
            client, admin, progress, trio.CapacityLimiter(_UPLOADS_MAX), wait, hold, tenant
        )
        if len(folders) == 1:
            await _add_one(adding, folders[0])
        else:
            total = progress.add_task(f"adding {len(folders)} models", total=len(folders))
            async with trio.open_nursery() as nursery:
                for folder in folders:
                    nursery.start_soon(_add_counted, adding, folder, total)
    return [adding.added[folder] for folder in folders if folder in adding.added]


async def _add_counted(adding: _Adding, folder: Path, total: TaskID) -> None:
    async with adding.limit:
        await _add_one(adding, folder)
    adding.progress.advance(total)


async def _add_one(adding: _Adding, folder: Path) -> None:
    size_bytes = sum((folder / name).stat().st_size for name in FILE_BYTES_MAX)
    bar = adding.progress.add_task(f"  {folder.name}: uploading", total=size_bytes)

    def resumed(had_bytes: int) -> None:
        adding.progress.advance(bar, had_bytes)
        people.print(f"{folder.name}: resumed at {100 * had_bytes // max(1, size_bytes)} %")

    async with _claimed(adding, read_manifest(folder).to_spec()):
        spec = await send_archive(
            adding.admin,
            folder,
            hold=adding.hold,
            resumed=resumed,
            advance=lambda more_bytes: adding.progress.advance(bar, more_bytes),
        )
    label = f"  {spec.name} v{spec.version}: profiling"
    adding.progress.update(bar, description=label, total=None, completed=0)
    adding.added[folder] = await _profiled(adding, spec, bar)
    if adding.wait and not adding.hold and spec.version > 1:
        await wait_current(adding.admin, spec.name, spec.version)
    adding.progress.remove_task(bar)


@asynccontextmanager
async def _claimed(adding: _Adding, spec: ModelSpec) -> AsyncIterator[None]:
    """Have the catalog know whose a model is before it comes: nobody else is to see it meanwhile.

    Raises:
        ModelConflict: It is another tenant's.
        QuotaExceeded: It would take its owner past a bound; nothing is uploaded.
    """
    if not adding.tenant:
        yield
        return
    await adding.admin.catalog(
        CatalogOrder(
            verb=CatalogVerb.CLAIM_MODEL,
            model=spec.name,
            tenant=adding.tenant,
            host_bytes=spec.image_bytes,
        )
    )
    try:
        yield
    except CwError:
        with trio.CancelScope(shield=True), suppress(CwError):  # it is served: an earlier version
            release = CatalogOrder(verb=CatalogVerb.RELEASE_MODEL, model=spec.name)
            await adding.admin.catalog(release)
        raise


async def _profiled(adding: _Adding, spec: ModelSpec, bar: TaskID) -> ModelStatus:
    """Wait until a version is measured, if that is wanted."""
    patience = trio.current_time() + _PATIENCE_S
    while True:
        try:
            status = await adding.client.model(spec.name, spec.version)
        except UnknownVersion:
            # It was given up, or another took its place: its record says which.
            await wait_current(adding.admin, spec.name, spec.version)
            raise
        adding.progress.update(bar, completed=status.steps_done, total=status.steps_total or None)
        if status.state is ModelState.FAILED:
            raise ConfigError(f"{spec.name} could not be prepared: {status.detail}")
        if status.state is ModelState.READY or not adding.wait:
            return status
        if trio.current_time() > patience:
            patience = math.inf
            if not (await adding.client.status()).executors:
                people.print(f"{spec.name} waits for an executor: none is alive")
        await trio.sleep(_POLL_S)
