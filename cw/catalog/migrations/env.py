"""What alembic runs to migrate: on the connection that `database.upgrade` hands over."""

from alembic import context

from cw.catalog import usage  # noqa: F401  its tables stand in METADATA once it is imported
from cw.catalog.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite can't alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
