"""What every codec is made of: fields bound once, enums as tables, and what to say of garbage.

pycapnp looks a member up by its name at each access. Getting and setting by a field object bound
beforehand costs a quarter of that (0.11 us against 0.45 us to read an int), which decides what a
message costs that is sent 30,000 times a second. So the codecs of frequent messages read::

    put = wire._set_by_field
    put(SLOT.request_id, slot.request_id)

and those of rare ones name members plainly (``wire.requestId = ...``).

Knows nothing of any particular message.
"""

import enum
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final, Generic, TypeVar

import capnp

from cw.errors import ProtocolViolation

E = TypeVar("E", bound=enum.Enum)
MessageT = TypeVar("MessageT")

UNSET: Final = "unset"


def fields_of(struct: Any, group: str | None = None) -> Any:
    """Bind the fields of a struct, or of one group of it, under their Python names.

    Args:
        struct: A struct of a loaded schema.
        group: The name of one of its groups, as in the schema.

    Returns:
        A namespace: `fields_of(x).request_id` is the field ``requestId`` of x.
    """
    schema = struct.schema
    if group is not None:
        schema = schema.fields[group].schema
    return SimpleNamespace(**{_python_name(name): it for name, it in schema.fields.items()})


def _python_name(wire_name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", wire_name).lower()


class EnumTable(Generic[E]):
    """A Python enum's members against the numbers of a schema's enum, both ways.

    Attributes:
        number: The number on the wire of each member.
    """

    def __init__(self, kind: type[E], wire_enum: Any) -> None:
        """Pair each member of `kind` with the enumerant of the same name.

        Names are those of the members' values: ``Outcome.TOO_LATE`` ("tooLate") is ``tooLate``.
        """
        numbers: dict[str, int] = wire_enum.schema.enumerants
        members: dict[str, E] = {_enumerant(it.value): it for it in kind}
        assert set(numbers) == {UNSET, *members}, f"{kind.__name__} and its schema differ"
        self._kind = kind
        self._members: list[E | None] = [
            members.get(name) for name in sorted(numbers, key=numbers.__getitem__)
        ]
        self.number: Final = {members[name]: at for name, at in numbers.items() if name != UNSET}

    def member(self, received: Any) -> E:
        """Turn an enum as pycapnp reads it into its member.

        Raises:
            ProtocolViolation: It is `unset`, or of a newer schema than this one.
        """
        number: int = received.raw
        member = self._members[number] if number < len(self._members) else None
        if member is None:
            raise ProtocolViolation(
                f"expected a {self._kind.__name__}, got number {number}"
                f"{' (unset)' if not number else ''}; the peer is broken or newer than this build"
            )
        return member


def _enumerant(value: str) -> str:
    return value.lower() if value.isupper() else value


def which(wire: Any, union: str) -> str:
    """Say which member of a struct's union is set.

    Args:
        wire: A reader of the struct.
        union: What to call the union in the error's text.

    Raises:
        ProtocolViolation: A member that is not in this build's schema.
    """
    try:
        return str(wire._which_str())
    except capnp.KjException as exc:
        raise unexpected(union, "a member that this build does not know") from exc


def unexpected(union: str, member: str) -> ProtocolViolation:
    """Make the error for a union's member that means nothing here, `unset` above all."""
    return ProtocolViolation(
        f"expected a {union}, got {member}; the peer is broken or newer than this build"
    )


def list_to_wire(
    write: Callable[[MessageT, Any], None], messages: Iterable[MessageT], wire_list: Any
) -> None:
    """Write messages into a list of structs that was made as long as they are many."""
    for at, message in enumerate(messages):
        write(message, wire_list[at])


def checked(read: Callable[[Any], MessageT]) -> Callable[[Any], MessageT]:
    """Have a reader rename whatever a malformed message makes it raise.

    Returns:
        The same reader, which raises `ProtocolViolation` where a pointer leads nowhere, a text is
        not UTF-8, or the message is larger than the connection allows.
    """

    def read_checked(wire: Any) -> MessageT:
        try:
            return read(wire)
        except (capnp.KjException, UnicodeDecodeError) as exc:
            text = str(exc).splitlines()[0]
            raise ProtocolViolation(f"expected a well-formed message, got: {text}") from exc

    return read_checked
