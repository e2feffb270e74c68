"""The catalog's tables, as the latest migration leaves them.

Other parts of the catalog add tables of their own to `METADATA`, in files of their own, and a
migration each; `tests/catalog/test_migrations.py` compares the two. Instants are wall-clock
milliseconds, since they outlive every process; sizes are bytes; 0 as a quota means no bound.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
)

NAME_LENGTH_MAX: Final = 128
"""Of tenants and models, in characters."""
KEY_ID_LENGTH: Final = 16
HASH_LENGTH: Final = 64
"""Hexadecimal digits of a key's hash."""

METADATA: Final = MetaData(
    naming_convention={
        # Constraints have names, so that migrations can change them.
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TENANTS: Final = Table(
    "tenants",
    METADATA,
    # From 1: 0 is the default tenant, which stands in no row. Never given twice.
    Column("tenant_id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(NAME_LENGTH_MAX), nullable=False, unique=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("weight", Float, nullable=False),
    Column("requests_per_s", Float, nullable=False),
    Column("host_bytes_max", BigInteger, nullable=False),
    Column("models_max", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("key_id", String(KEY_ID_LENGTH), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.tenant_id"), nullable=False, index=True),
    Column("secret_hash", String(HASH_LENGTH), nullable=False),
    Column("label", String(NAME_LENGTH_MAX), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger, nullable=False),  # 0 while it opens its door
)

MODELS: Final = Table(
    "models",
    METADATA,
    Column("name", String(NAME_LENGTH_MAX), primary_key=True),
    # Not a foreign key: the default tenant owns models, too.
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("host_bytes", BigInteger, nullable=False),
    Column("pinned", Boolean(create_constraint=False), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

MODEL_SHARES: Final = Table(
    "model_shares",
    METADATA,
    Column("model", ForeignKey("models.name", ondelete="CASCADE"), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.tenant_id"), primary_key=True, index=True),
)
