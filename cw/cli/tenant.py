"""Add tenants, set their quotas, and make, rotate and revoke their keys. Needs the admin's key.

Examples:
  cw tenant add acme --weight 2 --requests-per-s 100 --models 20 --host-bytes 8GiB
  cw tenant list
  cw tenant quota acme --requests-per-s 200
  cw tenant key add acme --label laptop
  cw tenant key rotate 5f0c9a1be2d34c77
"""

import argparse
import datetime
from collections.abc import Callable

import attrs
import trio
from rich.table import Table

from cw.cli.common import (
    add_connection,
    administered,
    as_json,
    people,
    print_json,
    results,
    size_bytes,
)
from cw.cli.usage import add_usage_arguments, show_usage
from cw.errors import UnknownTenant
from cw.messages import CatalogAnswer, CatalogOrder, CatalogVerb, KeyInfo, Quota, TenantInfo
from cw.units import format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("add", help="add a tenant")
    quota = verbs.add_parser("quota", help="change a tenant's quota; what is not named stays")
    listing = verbs.add_parser("list", help="list tenants with their quotas and what they hold")
    for verb in (add, quota):
        verb.add_argument("name", metavar="NAME")
        verb.add_argument("--weight", type=float, help="its part of the devices' time (1)")
        verb.add_argument("--requests-per-s", type=float, help="per gateway; 0: no bound")
        verb.add_argument("--host-bytes", type=size_bytes, help="of its models; 0B: no bound")
        verb.add_argument("--models", type=int, help="how many; 0: no bound")
    add_usage_arguments(verbs.add_parser("usage", help="what tenants used, from the catalog"))
    key = verbs.add_parser("key", help="make, rotate, revoke and list keys")
    actions = key.add_subparsers(dest="action", required=True, metavar="ACTION")
    key_add = actions.add_parser("add", help="make a key: it is shown this once")
    key_add.add_argument("--label", default="", help="for people: whose it is, or what for")
    key_rotate = actions.add_parser("rotate", help="a new key; the old one ends at once")
    key_revoke = actions.add_parser("revoke", help="end a key, and all that it opened, at once")
    key_list = actions.add_parser("list", help="list a tenant's keys")
    for action in (key_add, key_list):
        action.add_argument("name", metavar="TENANT")
    for action in (key_rotate, key_revoke):
        action.add_argument("key_id", metavar="KEY-ID")
    for verb in (add, quota, listing, key_add, key_rotate, key_revoke, key_list):
        add_connection(verb)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.verb == "usage":
        show_usage(args)
    else:
        trio.run(_run, args)
    return 0


async def _run(args: argparse.Namespace) -> None:
    async with administered(args) as admin:
        if args.verb == "quota":
            order = await _quota_order(args, admin.catalog)
        else:
            order = _order(args)
        answer = await admin.catalog(order)
    if args.json:
        print_json(as_json(answer))
    elif order.verb is CatalogVerb.LIST_TENANTS:
        results.print(tenants_table(answer.tenants))
    elif order.verb is CatalogVerb.LIST_KEYS:
        results.print(keys_table(answer.keys))
    elif answer.new_key:
        people.print("keep this key: it is shown this once, and nobody can tell it again")
        print(answer.new_key)
    else:
        people.print("done")


def _order(args: argparse.Namespace) -> CatalogOrder:
    match args.verb, getattr(args, "action", None):
        case "add", _:
            quota = _changed(Quota(), args)
            return CatalogOrder(verb=CatalogVerb.ADD_TENANT, tenant=args.name, quota=quota)
        case "list", _:
            return CatalogOrder(verb=CatalogVerb.LIST_TENANTS)
        case _, "add":
            return CatalogOrder(verb=CatalogVerb.ADD_KEY, tenant=args.name, label=args.label)
        case _, "list":
            return CatalogOrder(verb=CatalogVerb.LIST_KEYS, tenant=args.name)
        case _, "rotate":
            return CatalogOrder(verb=CatalogVerb.ROTATE_KEY, key_id=args.key_id)
        case _:
            return CatalogOrder(verb=CatalogVerb.REVOKE_KEY, key_id=args.key_id)


async def _quota_order(
    args: argparse.Namespace, ask: "Callable[[CatalogOrder], object]"
) -> CatalogOrder:
    """Start from the quota that there is, so that what is not named stays."""
    answer = await ask(CatalogOrder(verb=CatalogVerb.LIST_TENANTS))  # type: ignore[misc]
    assert isinstance(answer, CatalogAnswer)
    for tenant in answer.tenants:
        if tenant.name == args.name:
            quota = _changed(tenant.quota, args)
            return CatalogOrder(verb=CatalogVerb.SET_QUOTA, tenant=args.name, quota=quota)
    raise UnknownTenant(f"no tenant is named {args.name!r}; see 'cw tenant list'")


def _changed(quota: Quota, args: argparse.Namespace) -> Quota:
    names = ("weight", "requests_per_s", "host_bytes", "models")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return attrs.evolve(quota, **given)


def tenants_table(tenants: tuple[TenantInfo, ...]) -> Table:
    """Show tenants, each number beside its bound."""
    table = Table("tenant", "weight", "requests/s", "models", "host memory", "keys")
    for tenant in tenants:
        quota = tenant.quota
        table.add_row(
            tenant.name,
            f"{quota.weight:g}",
            f"{quota.requests_per_s:g}" if quota.requests_per_s else "no bound",
            f"{tenant.models} of {quota.models or 'any'}",
            f"{format_bytes(tenant.host_bytes)} of "
            f"{format_bytes(quota.host_bytes) if quota.host_bytes else 'any'}",
            str(tenant.keys),
        )
    return table


def keys_table(keys: tuple[KeyInfo, ...]) -> Table:
    """Show keys, less their secrets."""
    table = Table("key id", "label", "made", "revoked")
    for key in keys:
        revoked = _date(key.revoked_ms) if key.revoked_ms else ""
        table.add_row(key.key_id, key.label, _date(key.created_ms), revoked)
    return table


def _date(wall_ms: int) -> str:
    when = datetime.datetime.fromtimestamp(wall_ms / 1000, tz=datetime.UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
