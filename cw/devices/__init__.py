"""What runs models: one protocol, `device.Device`; the only servers' code that imports torch."""
