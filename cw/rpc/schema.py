"""Loads the project's schemas, once; the rest of ``cw.rpc`` takes them from here.

The files lie in ``schemas/`` of a checkout, and inside the package once it is installed.
"""

from pathlib import Path
from typing import Any, Final

import capnp


def _folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


SCHEMAS: Final = _folder()

common: Final[Any] = capnp.load(str(SCHEMAS / "common.capnp"))
executor: Final[Any] = capnp.load(str(SCHEMAS / "executor.capnp"))
catalog: Final[Any] = capnp.load(str(SCHEMAS / "catalog.capnp"))
control: Final[Any] = capnp.load(str(SCHEMAS / "control.capnp"))
serving: Final[Any] = capnp.load(str(SCHEMAS / "serving.capnp"))

PROTOCOL_VERSION: Final[int] = common.protocolVersion
"""The highest version of the protocol that this build speaks."""

OLDEST_VERSION: Final = 1
"""The lowest that it still speaks."""
