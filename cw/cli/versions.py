"""What `cw model versions`, `rollback` and `route` do: which version a name stands for."""

import argparse
import re
from collections.abc import Sequence

import trio
from rich.table import Table

from cw.cli.common import admin_key, connected, find_cluster, people, print_json, results
from cw.errors import ConfigError, RequestInvalid
from cw.messages import RouteOrder, Share, VersionRole, VersionStatus
from cw.rpc.ports import AdminPort

_SHARE = re.compile(r"v?([1-9][0-9]{0,8})=([0-9]{1,3})%?")
_VERSION = re.compile(r"v?([1-9][0-9]{0,8})")
_POLL_S = 0.05


def share(text: str) -> Share:
    """Read an argument such as ``v3=10%`` (argparse type)."""
    match = _SHARE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a share such as v3=10%, got {text!r}")
    return Share(version=int(match[1]), percent=int(match[2]))


def version(text: str) -> int:
    """Read an argument such as ``v3`` or ``3`` (argparse type)."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a version such as 3 or v3, got {text!r}")
    return int(match[1])


async def versions(args: argparse.Namespace) -> None:
    """Show the versions of a model."""
    endpoint = find_cluster(args)
    async with connected(endpoint, args.key) as client:
        admin = await client.serving.admin(admin_key(endpoint))
        _show(args, await admin.versions(args.name))


async def rollback(args: argparse.Namespace) -> None:
    """Make an earlier version current, and wait until it is."""
    endpoint = find_cluster(args)
    async with connected(endpoint, args.key) as client:
        admin = await client.serving.admin(admin_key(endpoint))
        target = args.to or _previous(args.name, await admin.versions(args.name))
        await admin.route_model(RouteOrder(name=args.name, switch_to=target, is_whole=False))
        _show(args, await wait_current(admin, args.name, target))


async def route(args: argparse.Namespace) -> None:
    """Give canaries their shares, or make one current, or end them."""
    if bool(args.shares) + args.promote + args.abort != 1:
        raise ConfigError("expected shares such as v3=10%, or --promote, or --abort: one of them")
    endpoint = find_cluster(args)
    async with connected(endpoint, args.key) as client:
        admin = await client.serving.admin(admin_key(endpoint))
        if args.promote:
            target = _only_canary(args.name, await admin.versions(args.name))
            await admin.route_model(RouteOrder(name=args.name, switch_to=target, is_whole=False))
            _show(args, await wait_current(admin, args.name, target))
        else:
            order = RouteOrder(name=args.name, shares=tuple(args.shares))
            _show(args, await admin.route_model(order))


async def wait_current(admin: AdminPort, name: str, target: int) -> Sequence[VersionStatus]:
    """Wait until a version that is wanted has become current.

    Raises:
        ConfigError: It could not be prepared; the one before goes on.
    """
    while True:
        known = await admin.versions(name)
        chosen = next((each for each in known if each.version == target), None)
        if chosen is None:
            raise RequestInvalid(f"version {target} of {name!r} was removed meanwhile")
        if chosen.role is VersionRole.CURRENT:
            return known
        if chosen.role is not VersionRole.WANTED:
            why = chosen.detail or "it is not wanted any more: another was asked for meanwhile"
            current = next(each.version for each in known if each.role is VersionRole.CURRENT)
            raise ConfigError(
                f"version {target} of {name} could not be prepared: {why}; version {current} "
                "goes on"
            )
        await trio.sleep(_POLL_S)


def _previous(name: str, known: Sequence[VersionStatus]) -> int:
    for each in known:
        if each.is_previous:
            return each.version
    raise ConfigError(
        f"{name} has had no other current version that is still there; name one with --to"
    )


def _only_canary(name: str, known: Sequence[VersionStatus]) -> int:
    canaries = [each.version for each in known if each.role is VersionRole.CANARY]
    if len(canaries) != 1:
        raise ConfigError(
            f"expected one canary of {name} to promote, got {len(canaries)}; 'cw model rollback "
            f"{name} --to V' makes any version current"
        )
    return canaries[0]


def _show(args: argparse.Namespace, known: Sequence[VersionStatus]) -> None:
    if args.json:
        print_json({"name": args.name, "versions": [version_json(each) for each in known]})
        return
    table = Table("version", "role", "requests", "id", "remark", title=args.name)
    for each in known:
        remark = each.detail or ("was current before" if each.is_previous else "")
        table.add_row(
            f"v{each.version}",
            each.role.value,
            f"{each.percent} %",
            f"{each.model_id:016x}",
            remark,
        )
    results.print(table)
    wanted = [each.version for each in known if each.role is VersionRole.WANTED]
    if wanted:
        people.print(f"v{wanted[0]} becomes current once it is measured")


def version_json(each: VersionStatus) -> dict[str, object]:
    """Describe a version for scripts."""
    return {
        "version": each.version,
        "role": each.role.value,
        "percent": each.percent,
        "id": f"{each.model_id:016x}",
        "is_previous": each.is_previous,
        "detail": each.detail,
    }
