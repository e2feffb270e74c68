"""Versions on the wire: what names stand for, and what administrators want of that."""

from collections.abc import Sequence
from typing import Any

from cw.messages import ModelId, Route, RouteOrder, Share, VersionRole, VersionStatus
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, list_to_wire

VERSION_ROLES = EnumTable(VersionRole, schema.common.VersionRole)


def _share_to_wire(share: Share, wire: Any) -> None:
    wire.version = share.version
    wire.percent = share.percent


def _shares_from_wire(wire_list: Any) -> tuple[Share, ...]:
    return tuple(Share(version=it.version, percent=it.percent) for it in wire_list)


def route_to_wire(route: Route, wire: Any) -> None:
    """Write a `Route`."""
    wire.name = route.name
    wire.current = route.current
    list_to_wire(_share_to_wire, route.shares, wire.init("shares", len(route.shares)))


def route_from_wire(wire: Any) -> Route:
    """Read a `Route`."""
    return Route(
        name=wire.name, current=ModelId(wire.current), shares=_shares_from_wire(wire.shares)
    )


def route_order_to_wire(order: RouteOrder, wire: Any) -> None:
    """Write a `RouteOrder`."""
    wire.name = order.name
    wire.switchTo = order.switch_to
    list_to_wire(_share_to_wire, order.shares, wire.init("shares", len(order.shares)))
    wire.isWhole = order.is_whole


def route_order_from_wire(wire: Any) -> RouteOrder:
    """Read a `RouteOrder`."""
    return RouteOrder(
        name=wire.name,
        switch_to=wire.switchTo,
        shares=_shares_from_wire(wire.shares),
        is_whole=wire.isWhole,
    )


def version_status_to_wire(status: VersionStatus, wire: Any) -> None:
    """Write a `VersionStatus`."""
    wire.version = status.version
    wire.modelId = status.model_id
    wire.role = VERSION_ROLES.number[status.role]
    wire.percent = status.percent
    wire.isPrevious = status.is_previous
    wire.detail = status.detail


def version_status_from_wire(wire: Any) -> VersionStatus:
    """Read a `VersionStatus`."""
    return VersionStatus(
        version=wire.version,
        model_id=ModelId(wire.modelId),
        role=VERSION_ROLES.member(wire.role),
        percent=wire.percent,
        is_previous=wire.isPrevious,
        detail=wire.detail,
    )


def versions_to_wire(versions: Sequence[VersionStatus], results: Any) -> None:
    """Fill the results of a method that describes versions."""
    list_to_wire(version_status_to_wire, versions, results.init("versions", len(versions)))


def versions_from_wire(results: Any) -> tuple[VersionStatus, ...]:
    """Read them."""
    return tuple(version_status_from_wire(it) for it in results.versions)
