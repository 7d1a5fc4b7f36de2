-- The lines of orders.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS order_items_history (
    order_id      UUID,
    product_id    UUID,
    quantity      Int32 CODEC(T64, ZSTD),
    unit_price    Decimal(10, 2) CODEC(ZSTD),
    _op           LowCardinality(String),
    _kind         LowCardinality(String),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _transaction  UInt64 CODEC(Delta, ZSTD),
    _before       Map(LowCardinality(String), Nullable(String)) CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(_committed_at)
ORDER BY (order_id, product_id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS order_items_current (
    order_id      UUID,
    product_id    UUID,
    quantity      Int32 CODEC(T64, ZSTD),
    unit_price    Decimal(10, 2) CODEC(ZSTD),
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (order_id, product_id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS order_items_to_current TO order_items_current AS
SELECT order_id, product_id, quantity, unit_price,
       _version, _is_deleted, _committed_at
FROM order_items_history;

CREATE VIEW IF NOT EXISTS order_items AS
SELECT order_id, product_id, quantity, unit_price
FROM order_items_current FINAL
WHERE _is_deleted = 0;
