"""What a client says of an archive before it sends it."""

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class UploadOffer:
    """An archive that is to be uploaded; the same offer again goes on with the same upload."""

    manifest_sha256: str
    """Of the file ``model.toml``, which holds the hashes of the other two."""
    sizes: Mapping[str, int]
    """Bytes of each of the archive's files, by name."""
