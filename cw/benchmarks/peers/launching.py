"""How each server is started: its files written, its command line made.

Settings are those that its documentation advises for many small models on one core: batches of up
to eight, a millisecond for one to fill, the SLO wherever it can be told, no logs of requests.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from cw.benchmarks.peers.servers.served import SERVED_VARIABLE, Served
from cw.units import PAGE_BYTES

_SERVERS: Final = Path(__file__).parent / "servers"
_ROOT: Final = Path(__file__).parents[3]

_TRITON_CONFIG: Final = """\
backend: "python"
max_batch_size: {batch_max}
input [{{ name: "image" data_type: TYPE_FP32 dims: [{dims}] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [-1] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ {batching} }}
"""
_TRITON_REJECTING: Final = """\
  max_queue_delay_microseconds: {wait_us}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {slo_us}
    allow_timeout_override: true
  }}
"""


_BENTOML_CONFIG: Final = """\
api_server:
  logging:
    access:
      enabled: false
  metrics:
    enabled: false
"""
"""Its access log writes a line for each request."""


@attrs.frozen(kw_only=True)
class Setup:
    """What a server is started with.

    Attributes:
        served: See `Served`; it lies in ``served.json`` of the folder, too.
        folder: Its own, empty.
        environment: Its virtual environment; of cw this process's own.
    """

    served: Served
    folder: Path
    environment: Path

    @property
    def python(self) -> str:
        """The interpreter that has the server."""
        return str(self.environment / "bin" / "python")


@attrs.frozen(kw_only=True)
class Launch:
    """A command line, and what is added to the environment."""

    argv: Sequence[str]
    variables: Mapping[str, str] = attrs.field(factory=dict)


Launcher = Callable[[Setup], Launch]


def variables_of(setup: Setup) -> dict[str, str]:
    """Say what every server's processes need to find what they serve."""
    return {
        SERVED_VARIABLE: str(setup.folder / "served.json"),
        "PYTHONPATH": str(_SERVERS),
        "PATH": f"{setup.environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": str(setup.environment),
        "OMP_NUM_THREADS": "1",
    }


def triton(setup: Setup, *, rejects: bool) -> Launch:
    """Triton's own binary, which pytriton's wheel carries, with a repository of python models.

    Args:
        setup: See there.
        rejects: Whether requests are refused that have been queued for as long as their SLO.
            Without it, and without a wait for batches to fill, Triton answers sooner and, up to
            some load, more; so it is measured in both ways.
    """
    (packages,) = (setup.environment / "lib").glob("python3.*/site-packages")
    carried, version = packages / "pytriton" / "tritonserver", packages.parent.name[6:]
    backends, repository = setup.folder / "backends", setup.folder / "repository"
    shutil.copytree(carried / "backends", backends)
    stub = carried / "python_backend_stubs" / version / "triton_python_backend_stub"
    # On the path of its models' processes, which do not look at PYTHONPATH.
    for path in (stub, _SERVERS / "network.py", _SERVERS / "served.py"):
        shutil.copy(path, backends / "python")
    served = setup.served
    rejecting = _TRITON_REJECTING.format(
        wait_us=round(served.batch_wait_ms * 1e3), slo_us=round(served.slo_ms * 1e3)
    )
    config = _TRITON_CONFIG.format(
        batch_max=served.batch_max,
        dims=", ".join(map(str, served.input_shape)),
        batching=rejecting if rejects else "",
    )
    for name in served.names:
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
        shutil.copy(_SERVERS / "triton_model.py", repository / name / "1" / "model.py")
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "http-address": "127.0.0.1",
        "http-port": served.port,
        "allow-grpc": "false",
        "allow-metrics": "false",
        "model-control-mode": "none" if served.room is None else "explicit",
    }
    argv = [str(carried / "bin" / "tritonserver")]
    argv += [f"--{name}={value}" for name, value in options.items()]
    return Launch(argv=argv, variables={"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")})


def bentoml(setup: Setup) -> Launch:
    """One worker process with all models."""
    served = setup.served
    config = setup.folder / "bentoml.yaml"
    config.write_text(_BENTOML_CONFIG)
    argv = [setup.python, "-m", "bentoml", "serve", "bentoml_service:Networks"]
    argv += ["--host", "127.0.0.1", "--port", str(served.port), "--working-dir", str(_SERVERS)]
    variables = {
        "BENTOML_CONFIG": str(config),
        "BENTOML_HOME": str(setup.folder / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
    }
    return Launch(argv=argv, variables=variables)


def litserve(setup: Setup) -> Launch:
    """One worker process with all models, one for HTTP."""
    return Launch(argv=[setup.python, str(_SERVERS / "litserve_server.py")])


def mlserver(setup: Setup) -> Launch:
    """One process for all; runtimes compute in its event loop, as its own for small models do."""
    served = setup.served
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": served.port,
        "grpc_port": served.other_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "load_models_at_startup": served.room is None,
        "logging_settings": None,
    }
    (setup.folder / "settings.json").write_text(json.dumps(settings))
    for name in served.names:
        model = {
            "name": name,
            "implementation": "mlserver_runtime.NetworkRuntime",
            "max_batch_size": served.batch_max,
            "max_batch_time": served.batch_wait_ms / 1e3,
        }
        (setup.folder / name).mkdir()
        (setup.folder / name / "model-settings.json").write_text(json.dumps(model))
    return Launch(argv=[str(setup.environment / "bin" / "mlserver"), "start", "."])


def ray(setup: Setup) -> Launch:
    """A cluster of one node with one replica."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(setup.folder),
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    return Launch(argv=[setup.python, str(_SERVERS / "ray_server.py")], variables=variables)


def cw(setup: Setup, *, kernels: str, pages_per_model: int, is_solo: bool) -> Launch:
    """A controller, a gateway and an executor, with both doors.

    Args:
        setup: Of which the SLO is not used: each request has its own.
        kernels: ``exported`` or ``rewritten``; see `cw.config.ExecutorSettings`.
        pages_per_model: A model's weights in pages.
        is_solo: One process for all, or three.
    """
    served = setup.served
    pages = pages_per_model * (served.room or len(served.names))
    config = setup.folder / "cw.toml"
    config.write_text(
        f'[executor]\ndevice = "cpu"\nkernels = "{kernels}"\ngpu_memory = "{pages * PAGE_BYTES}B"\n'
        'host_memory = "8GiB"\n'
    )
    argv = [sys.executable, "-m", "cw", "devcluster", "up", "--executors", "1", "--json"]
    argv += ["--config", str(config), "--dir", str(setup.folder / "cluster")]
    argv += ["--http-port", str(served.port)] + ["--solo"] * is_solo
    return Launch(argv=argv, variables={"PYTHONPATH": str(_ROOT)})
