"""Uploads on the wire: what is offered, and how far it has come."""

from collections.abc import Mapping
from typing import Any

from cw.messages import UploadOffer


def sizes_to_wire(sizes: Mapping[str, int], wire_list: Any) -> None:
    """Write bytes by file into a list that was made as long as they are many."""
    for at, (file, size_bytes) in enumerate(sizes.items()):
        wire_list[at].file = file
        wire_list[at].bytes = size_bytes


def sizes_from_wire(wire_list: Any) -> dict[str, int]:
    """Read bytes by file."""
    return {it.file: it.bytes for it in wire_list}


def offer_to_wire(offer: UploadOffer, wire: Any) -> None:
    """Write an `UploadOffer`."""
    wire.manifestSha256 = offer.manifest_sha256
    sizes_to_wire(offer.sizes, wire.init("sizes", len(offer.sizes)))


def offer_from_wire(wire: Any) -> UploadOffer:
    """Read an `UploadOffer`."""
    return UploadOffer(manifest_sha256=wire.manifestSha256, sizes=sizes_from_wire(wire.sizes))
