"""`public.payments`: how an order was paid. The provider's reference stays at the source."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.tables.base import Class, Lane, Table

PAYMENTS = Table(
    id=TableId("public", "payments"),
    lane=Lane.ACCOUNTS,
    key=("id",),
    columns={
        "id": Class.CONFIDENTIAL,
        "order_id": Class.CONFIDENTIAL,
        "method": Class.CONFIDENTIAL,
        "amount": Class.CONFIDENTIAL,
        "status": Class.CONFIDENTIAL,
        "provider_ref": Class.RESTRICTED,
        "created_at": Class.CONFIDENTIAL,
    },
    routes=(CacheRoute(keys=("order:{order_id}",)), RawAnalytics()),
)
