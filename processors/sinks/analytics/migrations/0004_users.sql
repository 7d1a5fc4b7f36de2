-- Users without anything Restricted.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS users_history (
    id            UUID,
    status        LowCardinality(String),
    country       LowCardinality(Nullable(String)),
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    deleted_at    Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD),
    purge_after   Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD),
    _op           LowCardinality(String),
    _kind         LowCardinality(String),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _transaction  UInt64 CODEC(Delta, ZSTD),
    _before       Map(LowCardinality(String), Nullable(String)) CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(_committed_at)
ORDER BY (id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS users_current (
    id            UUID,
    status        LowCardinality(String),
    country       LowCardinality(Nullable(String)),
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    deleted_at    Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD),
    purge_after   Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS users_to_current TO users_current AS
SELECT id, status, country, created_at, updated_at, deleted_at, purge_after,
       _version, _is_deleted, _committed_at
FROM users_history;

CREATE VIEW IF NOT EXISTS users AS
SELECT id, status, country, created_at, updated_at, deleted_at, purge_after
FROM users_current FINAL
WHERE _is_deleted = 0;
