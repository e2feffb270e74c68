"""Migrations of the catalog, run by alembic; `versions/` has one file for each step."""
