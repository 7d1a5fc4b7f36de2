-- The outbox is no longer captured as a table: its rows leave as events, and are removed at the source once they are sent. So
-- it has no current state. The history stays as it is: what it holds is nowhere else.
DROP VIEW IF EXISTS outbox;
DROP VIEW IF EXISTS outbox_to_current;
DROP TABLE IF EXISTS outbox_current;
