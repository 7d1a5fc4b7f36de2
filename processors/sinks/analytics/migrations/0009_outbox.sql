-- Events as the application wrote them.
-- History: every change once, whatever is delivered again: (key, _version) is unique after FINAL. Deletes hold the row as it
-- last was; `_before` holds, for an update, the old values of the columns that changed, as text.
CREATE TABLE IF NOT EXISTS outbox_history (
    id             UUID,
    aggregatetype  LowCardinality(String),
    aggregateid    String CODEC(ZSTD(3)),
    type           LowCardinality(String),
    payload        Nullable(String) CODEC(ZSTD(3)),
    correlation_id Nullable(String) CODEC(ZSTD(3)),
    causation_id   Nullable(String) CODEC(ZSTD(3)),
    user_id        Nullable(UUID),
    _op            LowCardinality(String),
    _kind          LowCardinality(String),
    _version       UInt64 CODEC(Delta, ZSTD),
    _is_deleted    UInt8 CODEC(ZSTD),
    _committed_at  DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    _transaction   UInt64 CODEC(Delta, ZSTD),
    _before        Map(LowCardinality(String), Nullable(String)) CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(_committed_at)
ORDER BY (id, _version);

-- Current state: not partitioned by time, or a delete would miss its row.
CREATE TABLE IF NOT EXISTS outbox_current (
    id             UUID,
    aggregatetype  LowCardinality(String),
    aggregateid    String CODEC(ZSTD(3)),
    type           LowCardinality(String),
    payload        Nullable(String) CODEC(ZSTD(3)),
    correlation_id Nullable(String) CODEC(ZSTD(3)),
    causation_id   Nullable(String) CODEC(ZSTD(3)),
    user_id        Nullable(UUID),
    _version       UInt64 CODEC(Delta, ZSTD),
    _is_deleted    UInt8 CODEC(ZSTD),
    _committed_at  DateTime64(6, 'UTC') CODEC(Delta, ZSTD)
) ENGINE = ReplacingMergeTree(_version, _is_deleted)
ORDER BY (id);

-- One insert fills both; if the second part fails, the whole insert is repeated, and repeating changes nothing.
CREATE MATERIALIZED VIEW IF NOT EXISTS outbox_to_current TO outbox_current AS
SELECT id, aggregatetype, aggregateid, type, payload, correlation_id, causation_id, user_id,
       _version, _is_deleted, _committed_at
FROM outbox_history;

CREATE VIEW IF NOT EXISTS outbox AS
SELECT id, aggregatetype, aggregateid, type, payload, correlation_id, causation_id, user_id
FROM outbox_current FINAL
WHERE _is_deleted = 0;
