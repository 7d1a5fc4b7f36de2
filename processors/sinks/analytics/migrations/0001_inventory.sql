-- Stock by warehouse.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS inventory_history (
    product_id    UUID,
    warehouse_id  Int32 CODEC(T64, ZSTD),
    quantity      Int32 CODEC(T64, ZSTD),
    reserved      Int32 CODEC(T64, ZSTD),
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
ORDER BY (product_id, warehouse_id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS inventory_current (
    product_id    UUID,
    warehouse_id  Int32 CODEC(T64, ZSTD),
    quantity      Int32 CODEC(T64, ZSTD),
    reserved      Int32 CODEC(T64, ZSTD),
    updated_at    DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (product_id, warehouse_id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS inventory_to_current TO inventory_current AS
SELECT product_id, warehouse_id, quantity, reserved, updated_at,
       _version, _is_deleted, _committed_at
FROM inventory_history;

CREATE VIEW IF NOT EXISTS inventory AS
SELECT product_id, warehouse_id, quantity, reserved, updated_at
FROM inventory_current FINAL
WHERE _is_deleted = 0;
