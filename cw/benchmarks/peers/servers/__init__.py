"""What runs inside the peers: each file in its server's own environment, which has no cw.

They import each other as plain modules (`cw/benchmarks/peers/processes.py` puts this folder on the
path), and torch, the peer and the standard library, nothing else.
"""
