"""Load: when requests arrive, who sends them, and what became of them."""
