"""The analytics store: the history and the current state of every captured table in ClickHouse, over HTTP.

`route` says what a change means for it (no client library needed), `sink` writes. It knows no source tables: what it
can store is what the tables made by migrations/ have columns for.
"""
