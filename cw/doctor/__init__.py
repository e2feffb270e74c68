"""What stands between a deployment and predictable latency, and the command that mends it."""
