-- Where users live, as far as the country.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS addresses_history (
    id            UUID,
    user_id       UUID,
    kind          LowCardinality(String),
    country       LowCardinality(Nullable(String)),
    is_default    Bool,
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
CREATE TABLE IF NOT EXISTS addresses_current (
    id            UUID,
    user_id       UUID,
    kind          LowCardinality(String),
    country       LowCardinality(Nullable(String)),
    is_default    Bool,
    _version      UInt64 CODEC(Delta, ZSTD),
    _is_deleted   UInt8 CODEC(ZSTD),
    _committed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS addresses_to_current TO addresses_current AS
SELECT id, user_id, kind, country, is_default,
       _version, _is_deleted, _committed_at
FROM addresses_history;

CREATE VIEW IF NOT EXISTS addresses AS
SELECT id, user_id, kind, country, is_default
FROM addresses_current FINAL
WHERE _is_deleted = 0;
