"""Settings: every bound and default of cw, each with its reason, read from TOML.

A cluster file has a table for each part, e.g.::

    [scheduler]
    policy = "default"
    margin = "1ms"

    [gateway]
    max_open_requests = 4096

    [executor]
    gpu_memory = "256MiB"

Durations and sizes are written with their unit. Unknown names are errors, since a misspelt bound
would silently be the default.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import attrs

from cw.errors import ConfigError
from cw.units import MS, SECOND, GiB, KiB, MiB, format_ms, parse_duration_ns, parse_size_bytes

T = TypeVar("T")

_KINDS: Final[Mapping[object, str]] = {int: "a whole number", float: "a number", str: "a text"}


@attrs.frozen(kw_only=True)
class SchedulerSettings:
    """How the controller plans."""

    policy: str = "default"
    """``default``; or one to compare it with: ``clockwork``, ``symphony``, ``shepherd``, ``nexus``
    or ``fcfs`` (`cw/core/policies/`)."""
    margin_ns: int = 1 * MS
    """Aim this long before each deadline: return path and the clocks' errors. Clockwork uses 5 ms,
    which costs most of the goodput at tight SLOs; 0.5-1 ms was the knee in simulation."""
    schedule_ahead_ns: int = 1 * MS
    """Commit an action this long before its lane is free: the pipe's delay and jitter, no more,
    since what is committed can't be improved by later arrivals. The measured delay of each
    executor's own pipe raises it."""
    schedule_ahead_max_ns: int = 10 * MS
    """Bound on that raise, so that a stalled pipe does not freeze the plan."""
    hold_ratio: float = 1.0
    """A request neither promised nor refused at arrival is decided within this share of its SLO. At
    0 everything is decided at arrival; at 1 a request is promised when it is sent to a device, and
    refused as soon as it is past hope, but not before: that serves most and breaks fewest promises
    (docs/simulation.md has the price of earlier words)."""
    objective: str = "requests"
    """What counts when not all can be served: ``requests``, each as one; or ``gpu_time``, each as
    the device time that it needs in its model's densest batch."""
    weights: str = ""
    """By how much more some count, and what share of the devices they own, as
    ``model-a=2,tenant:3=0.5``; whoever is not named weighs 1."""
    fair_share: float = 0.33
    """A tenant that has not got its share of device time (by weight) comes before all others; of
    its own models, those that get less than this part of an equal share (by weight) do. The rest
    goes by the objective. 0 lets the costliest models starve under overload, 1 shares out strictly,
    at the price of goodput (docs/simulation.md has figures)."""
    profile_window: int = 200
    """Durations remembered per (program, batch size, device); Clockwork's 10 forget too fast."""
    profile_quantile: float = 0.99
    probes_warm_up: int = 2
    """First runs of each batch size after a PREPARE, thrown away: caches and allocators warm."""
    probes_measured: int = 12
    """Measured runs of each batch size of a new program on a new kind of device."""
    max_queue_per_model: int = 4096
    """Requests waiting per model; one more is refused `overload`."""
    max_queue_total: int = 65536
    max_best_effort_per_line: int = 1024
    """Best-effort requests waiting per model and tenant; one more is refused `queueFull`."""
    max_best_effort_total: int = 16384
    best_effort_longest_ns: int = 20 * MS
    """A best-effort batch is made no larger than what takes so long (one request it may always
    have): a request with an SLO that comes while it runs waits for its end."""
    max_models: int = 50_000
    clockwork_ahead_ns: int = 5 * MS
    """The ``clockwork`` policy commits so long before a lane is free: what the paper's experiments
    with tight SLOs pass (its code's default is 10 ms)."""
    clockwork_buffer_ns: int = 5 * MS
    """The ``clockwork`` policy aims so long before the SLO: a constant of its code. With 0.5 ms it
    is judged by its order of batches alone."""
    places_per_model: int = 16
    """A model is prepared on so many executors (and on one of each kind of device), not on all:
    enough that some have room and that losing a few costs nothing, few enough that 40,000 models on
    1,000 executors are 640,000 places. Demand beyond them prepares it on more."""


@attrs.frozen(kw_only=True)
class TlsSettings:
    """Files in PEM form. Where a certificate is named, TLS is spoken and nothing else."""

    ca: str = ""
    """Whose signature a peer's certificate must bear. A client without it trusts the system's
    authorities; a server without it asks clients for no certificate."""
    cert: str = ""
    """Our own certificate, and after it those between it and the authority."""
    key_file: str = ""
    """Its private key; empty when `cert` holds it, too."""


@attrs.frozen(kw_only=True)
class LinkSettings:
    """Connections between the cluster's own processes, and with clients."""

    heartbeat_ns: int = 250 * MS
    """A ping this often, also to keep the clock's error bound small."""
    silence_ns: int = 1 * SECOND
    """A peer that is silent for this long is lost: a stopped process must not hold promises."""
    outbox_messages: int = 65536
    """Told messages waiting for the wire; a peer so far behind is treated as lost."""
    max_open_calls: int = 4096
    """Calls in progress per connection; the server stops reading past it."""
    max_open_bytes: int = 256 * MiB
    """Bytes of those calls; likewise."""
    max_message_bytes: int = 64 * MiB
    """One message; a larger one closes the connection."""
    max_nesting: int = 64
    """Pointers to follow one inside the other in a message; one that asks for more fails."""
    max_connections: int = 4096
    """Accepted at a time by one listener; further ones wait. The paper's scale is hundreds."""
    handshake_limit_ns: int = 10 * SECOND
    """For TLS to be agreed on; then the connection is closed."""
    greeting_limit_ns: int = 10 * SECOND
    """From being accepted to the whole first message; likewise."""
    message_limit_ns: int = 30 * SECOND
    """For a message that has begun to be whole; likewise."""
    send_limit_ns: int = 30 * SECOND
    """For the peer to take any of what is written to it; likewise."""
    tls: TlsSettings = TlsSettings()
    """Of controller, executors and gateways among themselves: each shows the others a certificate
    of the authority `ca`, and takes nobody for a peer who has none."""


@attrs.frozen(kw_only=True)
class GatewaySettings:
    """Admission's own bounds."""

    max_open_requests: int = 8192
    """Requests between arrival and answer; one more is refused `busy`."""
    max_open_bytes: int = 1 * GiB
    """Their payloads; likewise."""
    max_open_best_effort: int = 4096
    """Of these, best-effort requests, which may have half of the payloads' bytes, too; one more is
    refused `queueFull`. They wait for long, and must not fill the book for the others."""
    min_slo_ns: int = 1 * MS
    """An SLO under this is a mistake in units, not a wish."""
    max_slo_ns: int = 600 * SECOND
    max_upload_bytes: int = 4 * GiB
    max_open_uploads: int = 16
    """Uploads of one owner that are begun and not complete; one more is refused."""
    max_open_upload_bytes: int = 16 * GiB
    """Of these, as they will be when complete; likewise."""
    upload_keep_ns: int = 24 * 3600 * SECOND
    """From an upload's last byte until it is swept away: a night, and the morning after."""
    max_connections: int = 4096
    """Of clients at the native door; further ones wait."""
    max_connections_per_address: int = 1024
    """Of clients at one IP address; one more is closed at once. Many, for those behind one NAT."""
    max_calls_per_s: int = 50_000
    """Of one connection; past it the connection is not read until it may go on. A second's worth
    may come at once. Far above what one gateway serves: a bound on noise, not a quota."""
    tls: TlsSettings = TlsSettings()
    """Of both doors, to clients. With a `ca` clients need a certificate of it, beside their key."""


@attrs.frozen(kw_only=True)
class HttpSettings:
    """Bounds of a gateway's HTTP door."""

    max_connections: int = 1024
    """One more is answered 503 and closed; with TLS it is closed at once."""
    max_connections_per_address: int = 512
    """Of those, from one IP address; likewise. A connection has one request open at a time."""
    handshake_limit_ns: int = 10 * SECOND
    """For TLS to be agreed on; then the connection is closed."""
    max_header_bytes: int = 64 * KiB
    max_body_bytes: int = 64 * MiB
    """Of one request, decoded; more is answered 413."""
    max_json_bytes: int = 1 * MiB
    """Of these its JSON; more is answered 413: a MiB takes 8 to 25 ms to read, in which nobody else
    is answered. Large tensors come as binary data, which nobody reads."""
    max_open_bytes: int = 1 * GiB
    """Bodies of all requests that are open or on their way; one more is answered 503."""
    idle_limit_ns: int = 75 * SECOND
    """From an answer to the whole head of the next request; then the connection is closed."""
    body_limit_ns: int = 30 * SECOND
    """From the head to the end of the body; then it is answered 408."""
    send_limit_ns: int = 30 * SECOND
    """For a client to take its answer; then the connection is closed."""
    default_slo_ns: int = 1 * SECOND
    """Of a request that names none. Long: who has a deadline says so."""


@attrs.frozen(kw_only=True)
class CudaSettings:
    """What only the cuda device asks. `tools/gpu_check` has an experiment for each guess here."""

    ordinal: int = 0
    """Which card, as the driver counts them."""
    load_chunk_bytes: int = 4 * MiB
    """A LOAD is copied in pieces of this size: an output or input that another stream copies waits
    for a piece at most. Experiments ``h2d`` and ``small_copy``."""
    load_chunks_outstanding: int = 2
    """So many pieces are with the card at once: one is copied while the next one is asked for.
    Experiment ``small_copy``."""
    inputs_by: str = "kernel"
    """``kernel``: the graph's first kernel reads pinned host memory, and never waits for a LOAD.
    ``copy``: the copy engine brings them, after the pieces before it. Experiment ``small_copy``."""
    edit_pages_while_running: bool = False
    """Whether a LOAD may map its pages while an INFER runs; else it waits for the end of that, and
    the next INFER for the mapping. Experiment ``vmm_async``."""
    warm_up_runs: int = 3
    """Of a program before its capture: libraries load code at first use. Experiment ``capture``."""
    cudnn_benchmark: bool = False
    """Let cuDNN try its algorithms at each capture. Experiment ``autotune``."""
    keep_warm_ns: int = 0
    """When the card has idled for so long, a small graph is run, so that its clocks stay up; 0:
    never. Experiment ``keep_warm``."""
    wait_by: str = "sleep"
    """``sleep``: a thread that waits for the card sleeps in the driver. ``spin``: it watches, which
    takes a core per lane. Experiment ``notify``, which asks for `switch_interval_s`, too."""
    hang_limit_ns: int = 10 * SECOND
    """A wait for the card that lasts longer is a fault of the device: the executor restarts. Not
    measured: far above any inference, and soon enough for whoever waits."""
    graph_memory_bytes: int = 4 * GiB
    """Bound on what torch allocates: activations. Experiments ``capture`` and ``pool``."""
    reserve_bytes: int = 1 * GiB
    """Left to the driver, for code and for the graphs themselves. Experiment ``capture``."""


@attrs.frozen(kw_only=True)
class ExecutorSettings:
    """One executor and its device."""

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``emulated``."""
    gpu_memory_bytes: int = 2 * GiB
    """Size of the page pool. Rounded down to whole 16 MiB pages."""
    host_memory_bytes: int = 4 * GiB
    """Bound on the images of the models that are prepared. What does not fit is not prepared here:
    its requests go to other executors, or are refused."""
    profile: str = "h100"
    """Profile of an emulated device: a shipped one's name, or a TOML file."""
    threads: int = 1
    """Torch's threads on the cpu device. One: a second would be disturbed by the event loop."""
    kernels: str = "rewritten"
    """Of the cpu device. ``rewritten``: programs are rewritten for this processor, and weights are
    packed beforehand; ``exported``: as torch runs them, to compare with servers that do."""
    cores: tuple[int, ...] = ()
    """Processors that the device's own thread is kept on; empty means any."""
    max_queued_actions: int = 4096
    max_waiting_input_bytes: int = 512 * MiB
    """Inputs that came before their action; more are refused and the gateway asks again."""
    max_kept_output_bytes: int = 256 * MiB
    """Outputs kept for a call that is asked again; the oldest give way to newer ones."""
    switch_interval_s: float = 5e-5
    """Python's thread switch interval: at the default 5 ms a waking lane waits that long."""
    cuda: CudaSettings = CudaSettings()


@attrs.frozen(kw_only=True)
class CatalogSettings:
    """Where tenants, keys and quotas are kept."""

    url: str = ""
    """``postgresql+psycopg://...``, or ``sqlite:///FILE``; empty: ``catalog.db`` in the cluster's
    folder."""


@attrs.frozen(kw_only=True)
class ClusterSettings:
    """A whole cluster, as `tools/devcluster` starts it."""

    executors: int = 2
    gateways: int = 1
    cells: int = 1
    """Controllers, each with an equal part of the executors, behind the same gateways."""
    scheduler: SchedulerSettings = SchedulerSettings()
    link: LinkSettings = LinkSettings()
    gateway: GatewaySettings = GatewaySettings()
    http: HttpSettings = HttpSettings()
    executor: ExecutorSettings = ExecutorSettings()
    catalog: CatalogSettings = CatalogSettings()


def load_settings(path: Path) -> ClusterSettings:
    """Read a cluster file.

    Raises:
        ConfigError: The file can't be read, a name is unknown or a value does not fit.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"expected a readable TOML file at {path}: {exc}") from exc
    settings = settings_from(raw, ClusterSettings, where=str(path))
    link = settings.link
    if not 0 < 2 * link.heartbeat_ns <= link.silence_ns:
        raise ConfigError(
            f"{path} [link]: expected a heartbeat above 0 and at most half the silence after which "
            f"a peer is lost, got {format_ms(link.heartbeat_ns)} and {format_ms(link.silence_ns)}"
        )
    return settings


def settings_from(raw: Mapping[str, Any], kind: type[T], *, where: str) -> T:
    """Build one settings class from a TOML table; ``x_ns`` is written ``x``, ``x_bytes`` ``x``.

    Raises:
        ConfigError: A name is unknown or a value does not fit; `where` says in which file.
    """
    hints = get_type_hints(kind)
    known = {_written(name): name for name in hints}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown setting {key!r}; known: {', '.join(known)}")
        name = known[key]
        if isinstance(value, Mapping) and attrs.has(hints[name]):
            values[name] = settings_from(value, hints[name], where=f"{where} [{key}]")
            continue
        try:
            values[name] = _converted(name, value, hints[name])
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"{where}: {key} = {value!r}: {exc}") from exc
    return kind(**values)


def _written(name: str) -> str:
    return name.removesuffix("_ns").removesuffix("_bytes")


def _converted(name: str, value: object, kind: Any) -> object:
    if name.endswith("_ns"):
        return parse_duration_ns(str(value))
    if name.endswith("_bytes") and not isinstance(value, int):
        return parse_size_bytes(str(value))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TypeError("expected a list")
        return tuple(_plain(item, get_args(kind)[0]) for item in value)
    if attrs.has(kind):
        raise TypeError("expected a table of settings")
    plain = _plain(value, kind)
    if name.endswith(("_ratio", "_share", "_quantile")) and isinstance(plain, (int, float)):
        if plain > 1:
            raise ValueError("expected a part of the whole, 0 to 1")
        plain = float(plain)
    return plain


def _plain(value: object, kind: type[object]) -> object:
    """Check a number or a text; a whole number will do for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"expected {_KINDS[kind]}")
    if isinstance(value, (int, float)) and not 0 <= value < math.inf:
        raise ValueError("expected neither a negative nor an infinite number")
    return value


def restore_settings(raw: Mapping[str, Any], kind: type[T]) -> T:
    """Build settings from what `attrs.asdict` made of them, by way of JSON."""
    hints = get_type_hints(kind)
    values = {}
    for name, value in raw.items():
        if isinstance(value, Mapping):
            values[name] = restore_settings(value, hints[name])
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
