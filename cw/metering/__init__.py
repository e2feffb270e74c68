"""Metering: what was used, written down before it is told, until the catalog has it."""
