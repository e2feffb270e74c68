"""Write so that a crash leaves the old or the new, and say when it has reached the disk."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str, staging: Path) -> None:
    """Replace a small file so that a reader sees the old text or the new, never a part.

    Args:
        path: What to replace.
        text: Its new contents.
        staging: A folder on the same disk, for the draft.
    """
    draft = staging / secrets.token_hex(8)
    try:
        draft.write_text(text, "utf-8")
        sync(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
