"""Shares: what a request is worth, and whose device time is owed to them.

The concept: serving the most requests means serving the cheap ones, and under overload it serves
the costly ones never. So what counts is a setting, and beneath it lies a floor that no objective
may touch:

- *Objective.* ``requests`` counts each as one (times its weight). ``gpu_time`` counts a request as
  the device time that it needs in its model's densest batch, so that no model is favoured for being
  cheap.
- *Floor.* Device time is shared out between tenants by their weights, and a tenant's between its
  models that are asked for. A tenant is *owed* what it asks for up to its share, so a flood is
  refused to the flooder; what is owed comes before what is only worth more, and what nobody is owed
  goes to what is worth most. Of a tenant's own models, one that gets less than `fair_share` of its
  share is *starved*, and comes before the others. Nothing else is held back between them: what one
  of them leaves unused serves the others.

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

ASKED_DECAY_NS: Final = 3 * SECOND
"""Arrivals count 1/e in what is asked for after this long: 30 requests/s are known to 7 % then."""
AGE_MIN_NS: Final = 100 * MS
"""An account is taken to be at least so old: one request at once is not a thousand a second."""
USED_DECAY_NS: Final = 500 * MS
"""Likewise of the device time that was used."""
OWED_TOLERANCE: Final = 1.2
"""A tenant that asks for up to this much of its share is owed all of it: what is asked for is an
estimate, and one that swings costs its tenant most."""
SWEEP_NS: Final = 200 * MS
"""How often all accounts are gone through: those who ask no more leave their share to others."""
STARVED_LOOK_NS: Final = 5 * MS
"""How often it is looked whether an account is starved: against `USED_DECAY_NS`, often enough."""
IDLE_ARRIVALS: Final = 0.01
"""An account with fewer decayed arrivals is closed: nobody asked for a quarter of a minute."""


@attrs.define(eq=False)
class Account:
    """What one tenant asks for of one model, and what it got."""

    model: ModelBooks
    tenant_id: TenantId
    weight: float
    opened_ns: int
    unit_ns: float = 0.0
    """Device time of one request, in batches that fill at the present rate."""
    unit_known_ns: int = 0
    arrivals: float = 0.0
    arrived_ns: int = 0
    used: float = 0.0
    used_ns: int = 0
    starved: bool = False
    starved_known_ns: int = 0
    closed: bool = False

    def asked(self, now_ns: int) -> float:
        """What is asked for lately, in ns of device time per ns."""
        return self.arrivals_per_ns(now_ns) * self.unit_ns

    def arrivals_per_ns(self, now_ns: int) -> float:
        """How often it is asked for lately; as often as so far, if that is not long."""
        decay = math.exp((self.arrived_ns - now_ns) / ASKED_DECAY_NS)
        age = max(now_ns - self.opened_ns, AGE_MIN_NS) / ASKED_DECAY_NS
        return self.arrivals * decay / (ASKED_DECAY_NS * (1.0 - math.exp(-age)))

    def got(self, now_ns: int) -> float:
        """What was used lately, in the same unit."""
        return self.used * math.exp((self.used_ns - now_ns) / USED_DECAY_NS) / USED_DECAY_NS


@attrs.define(eq=False)
class Shares:
    """All accounts. Instants are cluster time, ns."""

    books: Books
    reserved: float = 0.0
    """What tenants ask for who are owed all of it, as a share of the cluster; 0 of a lone one."""
    differ: bool = attrs.field(init=False)
    """Whether some requests are worth more than others, by the objective."""
    _weights: dict[str, float] = attrs.field(init=False)
    _accounts: dict[tuple[TenantId, ModelId], Account] = attrs.field(factory=dict)
    _model_weights: dict[TenantId, float] = attrs.field(factory=dict)
    """By tenant that asks: the sum of the weights of the models that it asks for."""
    _tenant_weights: float = 0.0
    """The sum over these tenants."""
    _tenant_used: dict[TenantId, tuple[float, int]] = attrs.field(factory=dict)
    """By tenant: its decayed device time (ns), and as of when."""
    excessive: set[TenantId] = attrs.field(factory=set)
    """Those who asked for more than their share at the last sweep."""
    _swept_ns: int = 0

    def __attrs_post_init__(self) -> None:
        self._weights = parse_weights(self.books.settings.weights)
        objective = self.books.settings.objective
        if objective not in ("requests", "gpu_time"):
            raise ConfigError(f"unknown objective {objective!r}: choose 'requests' or 'gpu_time'")
        self.differ = bool(self._weights) or objective == "gpu_time"

    def arrived(self, request: Request, now_ns: int) -> None:
        """Count what is asked for."""
        if now_ns - self._swept_ns > SWEEP_NS:
            self._sweep(now_ns)
        key = request.tenant_id, request.model.spec.model_id
        account = request.account = self._accounts.get(key) or self._open(request, now_ns)
        decay = math.exp((account.arrived_ns - now_ns) / ASKED_DECAY_NS)
        account.arrivals = 1.0 + account.arrivals * decay
        account.arrived_ns = now_ns
        if now_ns - account.unit_known_ns > SWEEP_NS:
            account.unit_ns = _unit_ns(account, request, now_ns)
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
                if self.excessive:
                    used, at_ns = self._tenant_used.get(request.tenant_id, (0.0, now_ns))
                    used = each_ns + used * math.exp((at_ns - now_ns) / USED_DECAY_NS)
                    self._tenant_used[request.tenant_id] = used, now_ns

    def is_owed(self, request: Request, now_ns: int) -> bool:
        """Say whether a request's tenant has not got its share, or asks for no more than that."""
        tenant_id = request.tenant_id
        if tenant_id not in self.excessive:
            return True
        used, at_ns = self._tenant_used.get(tenant_id, (0.0, now_ns))
        got = used * math.exp((at_ns - now_ns) / USED_DECAY_NS) / USED_DECAY_NS
        return got * self._tenant_weights < len(self.books.executors) * self._tenant_weight(
            tenant_id
        )

    def is_starved(self, request: Request, now_ns: int) -> bool:
        """Say whether a model gets less than `fair_share` of its part of its tenant's share."""
        account = request.account
        if account is None or account.closed:
            account = self._accounts.get((request.tenant_id, request.model.spec.model_id))
            if account is None:
                return False
        if now_ns - account.starved_known_ns > STARVED_LOOK_NS:
            account.starved_known_ns = now_ns
            least = self.books.settings.fair_share * self._share(account)
            account.starved = account.got(now_ns) < least
        return account.starved

    def value(self, place: Place, request: Request) -> float:
        """Say what one request is worth, by the objective alone."""
        weight = 1.0
        if not self.differ:
            return weight
        if self._weights:
            weight = self._weights.get(place.model.spec.name, 1.0)
            weight *= self._tenant_weight(request.tenant_id)
        if self.books.settings.objective == "gpu_time":
            weight *= place.costs.density_ns(place.executor.pipe.overhead_ns)
        return weight

    def _open(self, request: Request, now_ns: int) -> Account:
        weight = self._weights.get(request.model.spec.name, 1.0)
        account = Account(request.model, request.tenant_id, weight, now_ns)
        self._accounts[request.tenant_id, request.model.spec.model_id] = account
        if request.tenant_id not in self._model_weights:
            self._model_weights[request.tenant_id] = 0.0
            self._tenant_weights += self._tenant_weight(request.tenant_id)
        self._model_weights[request.tenant_id] += weight
        return account

    def _tenant_weight(self, tenant_id: TenantId) -> float:
        weight = self.books.tenant_weights.get(tenant_id)
        return weight or self._weights.get(f"tenant:{tenant_id}", 1.0)

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
                account.closed = True
                del self._accounts[key]
        # Anew from the accounts left, so that sums of floats cannot drift.
        self._model_weights.clear()
        for account in self._accounts.values():
            known = self._model_weights.get(account.tenant_id, 0.0)
            self._model_weights[account.tenant_id] = known + account.weight
        self._tenant_weights = sum(map(self._tenant_weight, self._model_weights))
        asked = dict.fromkeys(self._model_weights, 0.0)
        for account in self._accounts.values():
            asked[account.tenant_id] += account.asked(now_ns)
        executors = max(1, len(self.books.executors))
        allowed = OWED_TOLERANCE * executors / max(self._tenant_weights, 1e-9)
        self.excessive = {
            tenant_id
            for tenant_id, share in asked.items()
            if share > allowed * self._tenant_weight(tenant_id) and len(asked) > 1
        }
        within = sum(asked[tenant_id] for tenant_id in asked.keys() - self.excessive)
        self.reserved = min(1.0, within / executors) if self.excessive else 0.0


def _unit_ns(account: Account, request: Request, now_ns: int) -> float:
    """Say what a request costs in the batches that fill within its SLO at the present rate."""
    place = next(iter(account.model.serving or account.model.places.values()), None)
    if place is None:
        return 0.0
    slo_ns = request.deadline_ns - request.arrival_ns
    together = max(1.0, 0.9 * slo_ns * account.arrivals_per_ns(now_ns))
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
