"""``versions.json``: what is known of a model's versions, on the disk."""

import json
from pathlib import Path
from typing import Any, Final

import attrs

from cw.core.versions import ModelVersions
from cw.errors import ArchiveInvalid
from cw.messages import ModelId
from cw.models.whole_files import write_whole

_FILE: Final = "versions.json"


@attrs.frozen
class VersionRecords:
    """The records under a store's folder of models. Writers keep one another out."""

    models: Path
    staging: Path

    def read(self, name: str) -> ModelVersions | None:
        """Read a record; None if there is no such model, or none of its versions was taken in.

        Raises:
            ArchiveInvalid: The file was changed by hand, or the disk is bad.
        """
        path = self.models / name / _FILE
        try:
            return _parsed(name, json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ArchiveInvalid(f"{path}: expected a record of versions: {exc}") from exc

    def write(self, record: ModelVersions) -> None:
        """Replace a record, or write the first; its model's folder is there."""
        document = attrs.asdict(record)
        write_whole(
            self.models / record.name / _FILE, json.dumps(document, indent=1) + "\n", self.staging
        )


def _parsed(name: str, document: dict[str, Any]) -> ModelVersions:
    ids = {int(number): ModelId(int(each)) for number, each in document["ids"].items()}
    record = ModelVersions(
        name=name,
        ids=ids,
        next_number=int(document["next_number"]),
        current=int(document["current"]),
        previous=int(document["previous"]),
        wanted=int(document["wanted"]),
        shares={int(number): int(share) for number, share in document["shares"].items()},
        failures={int(number): str(why) for number, why in document["failures"].items()},
    )
    strange = set(record.in_service) - set(ids)
    if strange or record.current == 0:
        raise ValueError(f"versions {sorted(strange or {0})} are in service and are not there")
    return record
