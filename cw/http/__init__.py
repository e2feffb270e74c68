"""The HTTP door of a gateway: the Open Inference Protocol, version 2, on Trio.

`server.py` listens, `connection.py` speaks HTTP/1.1 with one client, `door.py` says what each path
means, `infer.py` and `tensors.py` read requests and write answers, `described.py` tells of models.
Knows nothing of scheduling: what a request may do and what becomes of it is the tenant's
capability's business, the same as for clients of Cap'n Proto.
"""
