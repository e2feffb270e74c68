"""Routes: which version of a model a request gets, decided at the gateway.

Canaries' shares are kept by counting, not by chance: each request adds its percentage to each
version's credit, the version with most credit gets the request and pays 100 for it. So of any 100
requests in a row a version gets its percentage, give or take one, evenly spread; and each gateway
keeps them for itself, whichever door its requests come through.

It must not know: how versions come to be ready (`versions.py`).
"""

from collections.abc import Iterable

import attrs

from cw.messages import ModelId, ModelSpec, Route

_WHOLE = 100


@attrs.define(eq=False)
class _Versions:
    """One name's versions in service, and the credit of each."""

    specs: dict[int, ModelSpec] = attrs.field(factory=dict)
    percents: dict[int, int] = attrs.field(factory=dict)
    """Of those with a share, the current one included."""
    credit: dict[int, int] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Routes:
    """What a gateway may be asked for."""

    current: dict[str, ModelSpec] = attrs.field(factory=dict)
    """By name: what a request gets that falls to no canary."""
    _by_name: dict[str, _Versions] = attrs.field(factory=dict)
    _names: dict[ModelId, str] = attrs.field(factory=dict)

    def clear(self) -> None:
        """Forget all: another controller will tell anew."""
        self.current.clear()
        self._by_name.clear()
        self._names.clear()

    def add(self, spec: ModelSpec) -> None:
        """Serve a version; the first of a name is current until a route says otherwise."""
        versions = self._by_name.setdefault(spec.name, _Versions())
        versions.specs[spec.version] = spec
        self._names[spec.model_id] = spec.name
        self.current.setdefault(spec.name, spec)

    def route(self, route: Route) -> None:
        """Send requests as the controller says, from the next one on."""
        versions = self._by_name.get(route.name)
        if versions is None:
            return
        current = self._find(versions, route.current)
        if current is None:
            return
        self.current[route.name] = current
        percents = {
            share.version: share.percent
            for share in route.shares
            if share.version in versions.specs
        }
        if not percents:
            versions.percents, versions.credit = {}, {}
            return
        percents[current.version] = _WHOLE - sum(percents.values())
        versions.percents = percents
        # What a version was owed stays owed: changing a share must not deal it out anew.
        versions.credit = {number: versions.credit.get(number, 0) for number in percents}

    def remove(self, model_id: ModelId) -> None:
        """Serve a version no more."""
        name = self._names.pop(model_id, None)
        if name is None:
            return
        versions = self._by_name[name]
        spec = self._find(versions, model_id)
        if spec is not None:
            del versions.specs[spec.version]
            if spec.version in versions.percents:
                # The route that leaves it out has come before, or is on its way.
                versions.percents, versions.credit = {}, {}
        if not versions.specs:
            del self._by_name[name], self.current[name]
        elif self.current[name].model_id == model_id:
            # Only for a moment: the route that names another is on its way with this notice.
            self.current[name] = versions.specs[max(versions.specs)]

    def pick(self, name: str, version: int = 0) -> ModelSpec | None:
        """Choose the version that a request gets; None if there is no such model or version.

        Args:
            name: Of the model.
            version: The one asked for; 0: as the route says.
        """
        if version:
            versions = self._by_name.get(name)
            return None if versions is None else versions.specs.get(version)
        spec = self.current.get(name)
        if spec is None:
            return None
        versions = self._by_name[name]
        if not versions.percents:
            return spec
        credit = versions.credit
        for number, percent in versions.percents.items():
            credit[number] = credit.get(number, 0) + percent
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= _WHOLE
        return versions.specs[chosen]

    def versions(self, name: str) -> tuple[ModelSpec, ...]:
        """Return a name's versions in service, the oldest first."""
        versions = self._by_name.get(name)
        return () if versions is None else tuple(_in_order(versions.specs.values()))

    @staticmethod
    def _find(versions: _Versions, model_id: ModelId) -> ModelSpec | None:
        return next((it for it in versions.specs.values() if it.model_id == model_id), None)


def _in_order(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    return sorted(specs, key=lambda spec: spec.version)
