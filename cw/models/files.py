"""Open a file that a stranger put there."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from cw.errors import ArchiveInvalid


def open_regular(path: Path, *, bytes_max: int) -> tuple[BufferedReader, int]:
    """Open a regular file, never what a link points to, a folder, a pipe or a device.

    Args:
        path: Its last part must be no link.
        bytes_max: The most that the file may hold.

    Returns:
        The open file, and its size in bytes.

    Raises:
        ArchiveInvalid: It is anything else, is larger, or cannot be opened.
    """
    # O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as exc:
        raise ArchiveInvalid(f"{path.name}: expected a readable file, no link: {exc}") from exc
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
        os.close(descriptor)
        raise ArchiveInvalid(
            f"{path.name}: expected a regular file of at most {bytes_max} bytes, "
            f"got {stat.filemode(status.st_mode)} of {status.st_size}"
        )
    return os.fdopen(descriptor, "rb"), status.st_size
