"""What the catalog's changes mean to a controller; implements `CatalogListener`."""

from typing import TYPE_CHECKING

import attrs

from cw.core.events import ModelPinned, TenantWeighed
from cw.core.standing import pin_shortage
from cw.errors import QuotaExceeded
from cw.messages import DirectoryChange, TenantId
from cw.units import PAGE_BYTES, format_bytes

if TYPE_CHECKING:
    from cw.actors.controller import ControllerActor


@attrs.frozen(eq=False)
class StandingOrders:
    """Hands on to gateways and scheduler what each has to know."""

    controller: "ControllerActor"

    def tell_directory(self, change: DirectoryChange) -> None:
        """See `CatalogListener.tell_directory`."""
        self.controller.tell_directory(change)

    def weigh_tenant(self, tenant_id: TenantId, weight: float) -> None:
        """See `CatalogListener.weigh_tenant`."""
        self.controller.put(TenantWeighed(tenant_id=tenant_id, weight=weight))

    def check_pin(self, name: str) -> None:
        """See `CatalogListener.check_pin`."""
        short = pin_shortage(self.controller.core.books, name)
        if short is None:
            return
        needed, left = (format_bytes(pages * PAGE_BYTES) for pages in short)
        raise QuotaExceeded(
            f"{name!r} takes {needed} of device memory, and beside what is pinned already no "
            f"executor would have more than {left} for it: unpin models of that much, or give the "
            "executors more gpu_memory"
        )

    def pin_model(self, name: str, *, pinned: bool) -> None:
        """See `CatalogListener.pin_model`."""
        self.controller.put(ModelPinned(name=name, pinned=pinned))

    def serves_name(self, name: str) -> bool:
        """See `CatalogListener.serves_name`."""
        return self.controller.desk.serves_name(name)
