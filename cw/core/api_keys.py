"""API keys: how they look, and how one is told from a guess.

``cw_KEYID_SECRET``: the id is public and finds the entry in one look-up, the secret is 32 random
bytes. Only a hash of it is kept, so that who reads the catalog can open nothing. The hash is a
fast one: what makes passwords need a slow one is that people choose them, and 256 random bits can't
be guessed at any speed.

Pure: whoever makes a key brings the random bytes.
"""

import hashlib
import hmac
from typing import Final

PREFIX: Final = "cw"
"""So that scanners of source code find keys that were checked in."""
KEY_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
HASH_BYTES: Final = 32
KEY_LENGTH: Final = len(PREFIX) + 2 + 2 * (KEY_ID_BYTES + SECRET_BYTES)
"""Characters of every key; what is longer or shorter is none, and not even hashed."""
_PERSON: Final = b"cw api key"
_NO_HASH: Final = bytes(HASH_BYTES)


def make_key(key_id: bytes, secret: bytes) -> str:
    """Write a key.

    Args:
        key_id: 8 random bytes.
        secret: 32 random bytes.
    """
    assert (len(key_id), len(secret)) == (KEY_ID_BYTES, SECRET_BYTES), "random bytes of each length"
    return f"{PREFIX}_{key_id.hex()}_{secret.hex()}"


def split_key(key: str) -> tuple[str, str] | None:
    """Part what looks like a key into its id and its secret; None for anything else."""
    if len(key) != KEY_LENGTH or not key.isascii():
        return None
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != PREFIX or len(key_id) != 2 * KEY_ID_BYTES:
        return None
    return key_id, secret


def hash_secret(secret: str) -> bytes:
    """Say what is kept of a secret."""
    return hashlib.blake2b(secret.encode(), digest_size=HASH_BYTES, person=_PERSON).digest()


def is_secret(secret: str, secret_hash: bytes | None) -> bool:
    """Compare in a time that depends on neither; None, for an unknown id, takes as long."""
    matches = hmac.compare_digest(hash_secret(secret), secret_hash or _NO_HASH)
    return matches and secret_hash is not None
