"""The cache sink: invalidation of Redis keys (worker half) and a coherent cache-aside reader (reader half).

A table's route is in route.py, the names in Redis in keys.py; both need no client library.
"""
