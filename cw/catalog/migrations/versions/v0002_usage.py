"""Usage."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "usage_sources",
        sa.Column("source", sa.String(256), nullable=False),
        sa.Column("incarnation", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("through", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", "incarnation", name="pk_usage_sources"),
    )
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("tenant_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("gpu_ns", sa.BigInteger, nullable=False),
        sa.Column("load_bytes", sa.BigInteger, nullable=False),
        sa.Column("resident_byte_ms", sa.BigInteger, nullable=False),
        sa.Column("unknown", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("broken", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant_id", "model", name="pk_usage_hours"),
    )
