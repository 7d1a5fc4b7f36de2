-- Ratings and what was written. The record key is (product_id, id): a review that moves is deleted here and created there.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS reviews_history (
    id            UUID,
    product_id    UUID,
    user_id       Nullable(UUID),
    rating        Int16 CODEC(T64, ZSTD),
    title         Nullable(String) CODEC(ZSTD(3)),
    body          Nullable(String) CODEC(ZSTD(3)),
    status        LowCardinality(String),
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _op           LowCardinality(String),
    _kind         LowCardinality(String),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _transaction  UInt64 CODEC(Delta, ZSTD),
    _before       Map(LowCardinality(String), Nullable(String)) CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(_committed_at)
ORDER BY (product_id, id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS reviews_current (
    id            UUID,
    product_id    UUID,
    user_id       Nullable(UUID),
    rating        Int16 CODEC(T64, ZSTD),
    title         Nullable(String) CODEC(ZSTD(3)),
    body          Nullable(String) CODEC(ZSTD(3)),
    status        LowCardinality(String),
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (product_id, id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS reviews_to_current TO reviews_current AS
SELECT id, product_id, user_id, rating, title, body, status, created_at, updated_at,
       _version, _is_deleted, _committed_at
FROM reviews_history;

CREATE VIEW IF NOT EXISTS reviews AS
SELECT id, product_id, user_id, rating, title, body, status, created_at, updated_at
FROM reviews_current FINAL
WHERE _is_deleted = 0;
