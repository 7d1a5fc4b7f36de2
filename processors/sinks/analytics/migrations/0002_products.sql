-- What the shop sells. A price is the source's numeric(10,2), never a float. ClickHouse knows no NULL array: NULL tags are [].
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS products_history (
    id            UUID,
    sku           String CODEC(ZSTD(3)),
    name          String CODEC(ZSTD(3)),
    description   Nullable(String) CODEC(ZSTD(3)),
    category      LowCardinality(String),
    tags          Array(Nullable(String)) CODEC(ZSTD),
    attributes    Nullable(String) CODEC(ZSTD(3)),
    price         Decimal(10, 2) CODEC(ZSTD),
    currency      LowCardinality(String),
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
ORDER BY (id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS products_current (
    id            UUID,
    sku           String CODEC(ZSTD(3)),
    name          String CODEC(ZSTD(3)),
    description   Nullable(String) CODEC(ZSTD(3)),
    category      LowCardinality(String),
    tags          Array(Nullable(String)) CODEC(ZSTD),
    attributes    Nullable(String) CODEC(ZSTD(3)),
    price         Decimal(10, 2) CODEC(ZSTD),
    currency      LowCardinality(String),
    status        LowCardinality(String),
    created_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS products_to_current TO products_current AS
SELECT id, sku, name, description, category, tags, attributes, price, currency, status, created_at, updated_at,
       _version, _is_deleted, _committed_at
FROM products_history;

CREATE VIEW IF NOT EXISTS products AS
SELECT id, sku, name, description, category, tags, attributes, price, currency, status, created_at, updated_at
FROM products_current FINAL
WHERE _is_deleted = 0;
