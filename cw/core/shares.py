"""Shares: what a request is worth, and whose device time is owed to them.

The concept: serving the most requests means serving the cheap ones, and under overload it serves
the costly ones never. So what counts is a setting, and beneath it lies a floor that no objective
may touch:

- *Objective.* ``requests`` counts each as one (times its weight). ``gpu_time`` counts a request as
  the device time that it needs in its model's densest batch, so that no model is favoured for being
  cheap.
- *Floor.* Device time is shared out between tenants by their weights, and a tenant's between its
  models that are asked for. Whoever asks for no more than its share is *owed* what it asks for.
  Whoever asks for more is owed `fair_share` of its share. What is owed comes before what is worth
  more; the rest goes to what is worth most. A flood is refused to the flooder.

A share is counted in nanoseconds of device time per nanosecond, over all executors. What is asked
for is the recent rate of arrivals times the cost of a request in the batches that such a rate fills
within the SLO.

Knows nothing of batches in plans. Neighbours: `policies/default.py`, `policies/selection.py`.

Source: weighted max-min fairness, as in start-time fair queueing; design/0012.
"""

import math
from typing import Final

import attrs

from cw.core.books import Books, ModelBooks, Place
from cw.core.requests import Request
from cw.errors import ConfigError
from cw.messages import ModelId, TenantId
from cw.units import MS, SECOND

ASKED_DECAY_NS: Final = 1 * SECOND
"""Arrivals count 1/e in what is asked for after this long."""
USED_DECAY_NS: Final = 500 * MS
"""Likewise of the device time that was used."""
OWED_TOLERANCE: Final = 1.2
"""Who asks for up to this much of its share is owed all of it: what is asked for is an estimate,
and at 30 requests/s its standard deviation is a sixth."""
SWEEP_NS: Final = 200 * MS
"""How often all accounts are gone through: those who ask no more leave their share to others."""
IDLE_ARRIVALS: Final = 0.01
"""An account with fewer decayed arrivals is closed: nobody asked for five seconds."""
OWED_WORTH: Final = 1e6
"""What is owed is worth so many times as much as what is not: above any two models' ratio."""


@attrs.define(eq=False)
class Account:
    """What one tenant asks for of one model, and what it got."""

    model: ModelBooks
    tenant_id: TenantId
    weight: float
    unit_ns: float = 0.0
    """Device time of one request, in batches that fill at the present rate."""
    unit_known_ns: int = 0
    arrivals: float = 0.0
    arrived_ns: int = 0
    used: float = 0.0
    used_ns: int = 0

    def asked(self, now_ns: int) -> float:
        """What is asked for lately, in ns of device time per ns."""
        decay = math.exp((self.arrived_ns - now_ns) / ASKED_DECAY_NS)
        return self.arrivals * decay / ASKED_DECAY_NS * self.unit_ns

    def got(self, now_ns: int) -> float:
        """What was used lately, in the same unit."""
        return self.used * math.exp((self.used_ns - now_ns) / USED_DECAY_NS) / USED_DECAY_NS


@attrs.define(eq=False)
class Shares:
    """All accounts. Instants are cluster time, ns."""

    books: Books
    reserved: float = 0.0
    """What those ask for who are owed all of it, as a share of the whole cluster."""
    _weights: dict[str, float] = attrs.field(init=False)
    _accounts: dict[tuple[TenantId, ModelId], Account] = attrs.field(factory=dict)
    _model_weights: dict[TenantId, float] = attrs.field(factory=dict)
    """By tenant that asks: the sum of the weights of the models that it asks for."""
    _tenant_weights: float = 0.0
    """The sum over these tenants."""
    _swept_ns: int = 0

    def __attrs_post_init__(self) -> None:
        self._weights = parse_weights(self.books.settings.weights)
        objective = self.books.settings.objective
        if objective not in ("requests", "gpu_time"):
            raise ConfigError(f"unknown objective {objective!r}: choose 'requests' or 'gpu_time'")

    def arrived(self, request: Request, now_ns: int) -> None:
        """Count what is asked for."""
        if now_ns - self._swept_ns > SWEEP_NS:
            self._sweep(now_ns)
        key = request.tenant_id, request.model.spec.model_id
        account = self._accounts.get(key) or self._open(request)
        decay = math.exp((account.arrived_ns - now_ns) / ASKED_DECAY_NS)
        account.arrivals = 1.0 + account.arrivals * decay
        account.arrived_ns = now_ns
        if now_ns - account.unit_known_ns > SWEEP_NS:
            account.unit_ns = _unit_ns(account, request)
            account.unit_known_ns = now_ns

    def used(self, place: Place, requests: list[Request], cost_ns: int, now_ns: int) -> None:
        """Charge the device time of a batch to those who ride in it."""
        each_ns = cost_ns / len(requests)
        for request in requests:
            account = self._accounts.get((request.tenant_id, place.model.spec.model_id))
            if account is not None:
                decay = math.exp((account.used_ns - now_ns) / USED_DECAY_NS)
                account.used = each_ns + account.used * decay
                account.used_ns = now_ns

    def is_owed(self, request: Request, now_ns: int) -> bool:
        """Say whether a request's tenant and model get less than what they are owed."""
        account = self._accounts.get((request.tenant_id, request.model.spec.model_id))
        if account is None:
            return True
        share = self._share(account)
        if account.asked(now_ns) <= OWED_TOLERANCE * share:
            return True
        return account.got(now_ns) < self.books.settings.fair_share * share

    def value(self, place: Place, request: Request) -> float:
        """Say what one request is worth, by the objective alone."""
        weight = self._weights.get(place.model.spec.name, 1.0)
        if self._weights:
            weight *= self._weights.get(f"tenant:{request.tenant_id}", 1.0)
        if self.books.settings.objective == "gpu_time":
            weight *= place.costs.density_ns(place.executor.pipe.overhead_ns)
        return weight

    def _open(self, request: Request) -> Account:
        weight = self._weights.get(request.model.spec.name, 1.0)
        account = Account(request.model, request.tenant_id, weight)
        self._accounts[request.tenant_id, request.model.spec.model_id] = account
        if request.tenant_id not in self._model_weights:
            self._model_weights[request.tenant_id] = 0.0
            self._tenant_weights += self._tenant_weight(request.tenant_id)
        self._model_weights[request.tenant_id] += weight
        return account

    def _tenant_weight(self, tenant_id: TenantId) -> float:
        return self._weights.get(f"tenant:{tenant_id}", 1.0)

    def _share(self, account: Account) -> float:
        tenants = self._tenant_weight(account.tenant_id) / self._tenant_weights
        models = account.weight / self._model_weights[account.tenant_id]
        return len(self.books.executors) * tenants * models

    def _sweep(self, now_ns: int) -> None:
        """Close the accounts of those who ask no more, and see what the others are owed."""
        self._swept_ns = now_ns
        for key, account in list(self._accounts.items()):
            decay = math.exp((account.arrived_ns - now_ns) / ASKED_DECAY_NS)
            if account.arrivals * decay < IDLE_ARRIVALS:
                del self._accounts[key]
        # Anew from the accounts left, so that sums of floats cannot drift.
        self._model_weights.clear()
        for account in self._accounts.values():
            known = self._model_weights.get(account.tenant_id, 0.0)
            self._model_weights[account.tenant_id] = known + account.weight
        self._tenant_weights = sum(map(self._tenant_weight, self._model_weights))
        reserved = 0.0
        for account in self._accounts.values():
            asked = account.asked(now_ns)
            if asked <= OWED_TOLERANCE * self._share(account):
                reserved += asked
        self.reserved = min(1.0, reserved / max(1, len(self.books.executors)))


def _unit_ns(account: Account, request: Request) -> float:
    """Say what a request costs in the batches that fill within its SLO at the present rate."""
    place = next(iter(account.model.serving or account.model.places.values()), None)
    if place is None:
        return 0.0
    slo_ns = request.deadline_ns - request.arrival_ns
    together = max(1.0, 0.9 * slo_ns * account.arrivals / ASKED_DECAY_NS)
    overhead_ns, by_count = place.executor.pipe.overhead_ns, place.costs.by_count
    sizes = [size for size in place.costs.batch_sizes if size <= together]
    return min((by_count[size] + overhead_ns) / size for size in sizes)


def parse_weights(text: str) -> dict[str, float]:
    """Read ``model-a=2,tenant:3=0.5``; whoever is not named weighs 1.

    Raises:
        ConfigError: Not of this form, or a weight is not above 0.
    """
    weights = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < math.inf:
            raise ConfigError(
                f"expected weights such as 'model-a=2,tenant:3=0.5', each above 0, got {part!r}"
            )
        weights[name] = weight
    return weights
