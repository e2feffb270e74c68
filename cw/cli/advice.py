"""What a person can do about what the system refused."""

import errno
from typing import Final

_ADVICE: Final = {
    errno.ENOSPC: "make room on that disk, or name another place",
    errno.EDQUOT: "your quota there is used up: make room, or name another place",
    errno.EFBIG: "a limit on the size of files is in force: see 'ulimit -f'",
    errno.EACCES: "run this as its owner, or name another place",
    errno.EPERM: "run this as its owner, or name another place",
    errno.EROFS: "nothing can be written there: name another place",
    errno.ENOENT: "check the path, and that its folder exists",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder stands there: name a file",
    errno.EEXIST: "remove it, or choose another name",
    errno.EMFILE: "raise the limit on open files: see 'ulimit -n'",
    errno.ENFILE: "the whole system is out of open files: see fs.file-max",
    errno.ENOMEM: "not enough memory: close something, or ask for less",
    errno.EADDRINUSE: "something listens there already: choose another port, or 0 for any free one",
    errno.EADDRNOTAVAIL: "this machine has no such address: see 'ip address'",
}


def explain(exc: OSError) -> str:
    """Say where, what, and what to do about it; the error's own words where that isn't known."""
    if exc.errno is None or exc.strerror is None:
        return str(exc)
    where = f"{exc.filename}: " if exc.filename is not None else ""
    advice = _ADVICE.get(exc.errno)
    return f"{where}{exc.strerror}" + (f"; {advice}" if advice else "")
