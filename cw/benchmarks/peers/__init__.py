"""``tools/bench_peers``: cw side by side with what people serve models with today."""
