"""Names of things: ints that are not to be mixed up, each derived or given as said beside it."""

import hashlib
from typing import Final, NewType

ModelId = NewType("ModelId", int)
"""Derived from a model's name and contents, so that a restarted controller and its executors agree
without a table (`model_id_for`)."""
ExecutorId = NewType("ExecutorId", int)
"""Given by the controller to one incarnation of one executor; never reused in an epoch."""
GatewayId = NewType("GatewayId", int)
RequestId = NewType("RequestId", int)
"""A gateway's id and its own sequence number in one int: `request_id_for`, `gateway_of`."""
TenantId = NewType("TenantId", int)
"""For whom requests are asked and device time is shared out; 32 bits. 0 is the default tenant, of
whoever is not told apart from others."""
ActionId = NewType("ActionId", int)
Epoch = NewType("Epoch", int)
"""One reign of one controller. A later reign has a larger number."""
Incarnation = NewType("Incarnation", int)
"""One life of one executor process."""
Attempt = NewType("Attempt", int)
"""One try at a request, counted from 1; at most one is current."""
Ticket = NewType("Ticket", int)
"""Joins a gateway's inputs to the controller's action at the executor; not to be guessed."""

_SEQUENCE_BITS: Final = 44


def request_id_for(gateway_id: GatewayId, sequence: int) -> RequestId:
    """Name the `sequence`-th request of a gateway."""
    return RequestId(gateway_id << _SEQUENCE_BITS | sequence)


def gateway_of(request_id: RequestId) -> GatewayId:
    """Say which gateway a request came through."""
    return GatewayId(request_id >> _SEQUENCE_BITS)


def model_id_for(name: str, program_sha256: str, weights_sha256: str) -> ModelId:
    """Derive a model's id (63 bits) from what it is."""
    digest = hashlib.sha256(f"{name}\n{program_sha256}\n{weights_sha256}".encode()).digest()
    return ModelId(int.from_bytes(digest[:8], "big") >> 1)
