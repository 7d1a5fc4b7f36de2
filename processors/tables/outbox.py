"""`public.outbox`: events that the application writes in the transaction of the change they tell of."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.tables.base import Class, Lane, Table

OUTBOX = Table(
    id=TableId("public", "outbox"),
    lane=Lane.ACCOUNTS,
    key=("id",),
    columns={
        "id": Class.INTERNAL,
        "aggregatetype": Class.INTERNAL,
        "aggregateid": Class.INTERNAL,
        "type": Class.INTERNAL,
        "payload": Class.CONFIDENTIAL,
        "correlation_id": Class.INTERNAL,
        "causation_id": Class.INTERNAL,
        "user_id": Class.INTERNAL,
    },
    routes=(RawAnalytics(),),
)
