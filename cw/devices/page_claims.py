"""Who holds which page of a device: the book in which a device catches its caller's mistakes.

The caller chooses the pages (the controller accounts for them, the executor numbers them). Were it
to hand out one page twice, one model would silently compute with another's weights; so each device
keeps this second book and stops the process at the first entry that does not fit.
"""

from collections.abc import Sequence

from cw.messages import ModelId


class PageClaims:
    """Models prepared on a device, and the pages that each holds now."""

    def __init__(self, pages_total: int) -> None:
        assert pages_total > 0, f"expected a device with pages, got {pages_total}"
        self._owners: list[ModelId | None] = [None] * pages_total
        self._held: dict[ModelId, tuple[int, ...]] = {}

    @property
    def pages_total(self) -> int:
        """Pages of the device."""
        return len(self._owners)

    def admit(self, model_id: ModelId) -> None:
        """Take up a model that was prepared."""
        self._held.setdefault(model_id, ())

    def knows(self, model_id: ModelId) -> bool:
        """Say whether a model is prepared."""
        return model_id in self._held

    def is_resident(self, model_id: ModelId) -> bool:
        """Say whether a model holds pages."""
        return bool(self._held.get(model_id))

    def claim(self, model_id: ModelId, pages: Sequence[int], needed: int) -> tuple[int, ...]:
        """Give pages to a model; every one must be free, and there must be just enough."""
        assert self.knows(model_id), f"LOAD of model {model_id}, which was never prepared"
        assert not self._held[model_id], f"LOAD of model {model_id}, which is resident already"
        assert len(pages) == needed == len(set(pages)), (
            f"expected {needed} different pages for model {model_id}, got {list(pages)}"
        )
        for page in pages:
            assert 0 <= page < self.pages_total, f"page {page} is not in 0..{self.pages_total - 1}"
            owner = self._owners[page]
            assert owner is None, f"page {page} for model {model_id} is held by model {owner}"
        for page in pages:
            self._owners[page] = model_id
        self._held[model_id] = tuple(pages)
        return self._held[model_id]

    def release(self, model_id: ModelId) -> tuple[int, ...]:
        """Take a resident model's pages back."""
        assert self.is_resident(model_id), f"UNLOAD of model {model_id}, which is not resident"
        pages = self._held[model_id]
        for page in pages:
            self._owners[page] = None
        self._held[model_id] = ()
        return pages

    def dismiss(self, model_id: ModelId) -> None:
        """Strike out a model, which must not be resident."""
        assert not self.is_resident(model_id), f"model {model_id} is resident: unload it first"
        del self._held[model_id]
