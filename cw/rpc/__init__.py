"""The ports over Cap'n Proto and in memory; the only package that imports capnp."""
