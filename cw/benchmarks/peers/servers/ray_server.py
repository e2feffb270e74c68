"""Ray Serve: one replica, which keeps all models, or as many as there is room for, and batches."""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

import signal
from typing import Any

import ray
from network import Network, compute_mixed
from ray import serve
from served import Served

SERVED = Served.read()


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Networks:
    """All models; each request names its own in Ray's header for that."""

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}
        if SERVED.room is None:
            self._networks = {name: Network.open(name, SERVED) for name in SERVED.names}

    @serve.multiplexed(max_num_models_per_replica=SERVED.room or -1)
    async def load(self, name: str) -> Network:
        """Load one; Ray drops the one that was used longest ago."""
        return Network.open(name, SERVED)

    @serve.batch(max_batch_size=SERVED.batch_max, batch_wait_timeout_s=SERVED.batch_wait_ms / 1e3)
    async def compute(self, asked: list[tuple[str, Network, bytes]]) -> list[bytes]:
        """Compute what the batcher put together."""
        networks = {name: network for name, network, _ in asked}
        return compute_mixed(networks, [(name, image) for name, _, image in asked])

    async def __call__(self, request: Any) -> Any:
        """Answer one request: raw bytes in, raw bytes out."""
        from starlette.responses import Response

        name = request.headers["serve_multiplexed_model_id"]
        image = await request.body()
        network = self._networks.get(name) or await self.load(name)
        return Response(await self.compute((name, network, image)))


if __name__ == "__main__":
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 1024 * 1024,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": SERVED.port})
    serve.run(Networks.bind())
    signal.pause()
