"""`cw tenant usage`: sums with names, read beside a controller that writes."""

from cw.catalog.catalog import Catalog
from cw.catalog.database import default_url
from cw.cli.usage import usage_rows
from cw.messages import MODEL_OWNER, Incarnation, TenantId, UsageBatch, UsageEntry, UsageRecord


def test_names_stand_for_numbers(tmp_path):
    """The default tenant and a model's owner have words of their own."""
    url = default_url(tmp_path)
    catalog = Catalog.open(url, ())
    entries = tuple(
        UsageEntry(hour=24, tenant_id=tenant, model="a", kept=3)
        for tenant in (TenantId(0), MODEL_OWNER)
    )
    record = UsageRecord(number=1, entries=entries)
    catalog.add_usage(UsageBatch(source="s", incarnation=Incarnation(1), records=(record,)))
    by_model = usage_rows(url, by="model", name=None)
    (by_hour,) = usage_rows(url, by="hour", name="(default)")
    catalog.close()

    assert [row["tenant"] for row in by_model] == ["(default)", "(the model's owner)"]
    assert by_model[0]["model"] == "a"
    assert (by_hour["hour"], by_hour["kept"]) == ("1970-01-02T00:00:00+00:00", 3)
