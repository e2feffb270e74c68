"""The catalog: who the tenants are, what opens their doors, and whose each model is, in SQL.

It belongs to the controller's process. Everything here blocks, takes a connection and knows no
actor: `cw/actors/catalog_keeper.py` calls it in threads and tells gateways what changed.
"""
