"""How many messages one told item counts for, against the bound of an outbox."""

from cw.messages import Notices, Orders


def notices_weight(notices: Notices) -> int:
    """Count what a gateway is told; even nothing takes a place."""
    return max(
        1,
        len(notices.decisions)
        + len(notices.directory)
        + len(notices.models_added)
        + len(notices.models_removed)
        + len(notices.routes)
        + len(notices.executors_joined)
        + len(notices.executors_lost),
    )


def orders_weight(orders: Orders) -> int:
    """Count what an executor is told; even nothing takes a place."""
    return max(1, len(orders.actions) + len(orders.cancels))
