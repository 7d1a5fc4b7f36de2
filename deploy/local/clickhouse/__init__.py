"""ClickHouse for development: the chdb engine behind a small HTTP front, so that workers and tools run the same client.

`statement` splits what the client sends, `engine` runs it, `http` speaks the protocol, `codecs` compresses, `errors`
maps codes. Not a server for production: one engine, no users, loopback only. Nothing of ours imports this package but
the process that `python -m deploy.local.clickhouse` starts.
"""
