"""`public.orders`: what users bought, and how far it has come."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.tables.base import Class, Lane, Table

ORDERS = Table(
    id=TableId("public", "orders"),
    lane=Lane.ACCOUNTS,
    key=("id",),
    columns={
        "id": Class.INTERNAL,
        "user_id": Class.INTERNAL,
        "status": Class.INTERNAL,
        "total": Class.CONFIDENTIAL,
        "currency": Class.INTERNAL,
        "ordered_at": Class.INTERNAL,
        "updated_at": Class.INTERNAL,
    },
    routes=(CacheRoute(keys=("order:{id}", "user:{user_id}:orders")), RawAnalytics()),
)
