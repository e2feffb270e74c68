"""Every error that cw raises, as one tree; blame is in the type.

Expected outcomes (a refusal, a rejected action, a late request) are values in `cw.messages`, not
exceptions. What stands here is raised, and each docstring says what whoever catches it should do.
Bugs are asserts: they end the process, and the supervisor restarts it.
"""


class CwError(Exception):
    """The root: catch it to catch everything that cw raises on purpose."""


class ConfigError(CwError):
    """A setting or a command-line argument is wrong. Mend it and start again."""


class ManifestInvalid(CwError):
    """A `model.toml` is not a valid manifest. The owner of the model mends and packs it again."""


class ArchiveInvalid(CwError):
    """A model archive is damaged, lies about itself or holds what is not data. Do not retry it."""


class RequestInvalid(CwError):
    """A client's request can never be served as it stands: the client mends it before retrying."""


class AccessDenied(CwError):
    """The key presented does not open this door. Present another; do not retry the same one."""


class UnknownModel(RequestInvalid):
    """No model of that name (or id) is registered here. List the models, or add this one first."""


class ModelConflict(RequestInvalid):
    """A model of that name exists already with other contents. Remove it first, or rename."""


class UnknownVersion(UnknownModel):
    """The model has no such version, or it is not in service. List its versions."""


class UnknownUpload(RequestInvalid):
    """No upload of this caller has that token: it has ended. Begin it anew."""


class ChunkOutOfOrder(RequestInvalid):
    """Bytes before this chunk are missing. Ask how far the upload came; go on from there."""


class ChunkDamaged(CwError):
    """A chunk's checksum is not that of its bytes. Send it again; give up if that does not help."""


class StoreFull(CwError):
    """The store's disk has no room. Nothing was left behind; make room, then begin anew."""


class UnknownTenant(RequestInvalid):
    """No tenant of that name, or no key of that id, is in the catalog. List them first."""


class QuotaExceeded(RequestInvalid):
    """It would take a tenant, or an executor's pages, past a bound. Free some, or raise it."""


class CatalogFailed(CwError):
    """The catalog's database did not take an order, of which nothing was done. Mend it; retry."""


class ProtocolViolation(CwError):
    """The peer sent what the protocol forbids. Drop the peer: its state can't be trusted."""


class PeerDisconnected(CwError):
    """The connection, or the process behind it, is gone. Redial; what was in flight is unknown."""


class PeerSilent(PeerDisconnected):
    """The peer is connected but has not answered within the heartbeat bound. Treat it as lost."""


class RemoteFailed(CwError):
    """The peer answered a call with an error of its own. Its text says why; the link is sound."""


class OutboxFull(CwError):
    """A bounded outbox or budget is full: the peer is too slow. Shed the message; do not wait."""


class DeviceFault(CwError):
    """The device broke in the middle of an action. The executor must restart; nothing else can."""


class StartMissed(CwError):
    """A device's lane was free only after the action's window had closed: nothing was started."""


class HostMemoryFull(CwError):
    """No room for another model's image in host memory. Prepare it elsewhere, or remove one."""


class ProgramNotAllowed(CwError):
    """A program is not on the allow-list, and holds what only allowed ones may hold.

    Write it with the operators that any program may use, or have an administrator allow it.
    """
