"""`public.order_items`: the lines of an order. A cached order holds them."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.tables.base import Class, Lane, Table

ORDER_ITEMS = Table(
    id=TableId("public", "order_items"),
    lane=Lane.ACCOUNTS,
    key=("order_id", "product_id"),
    columns={
        "order_id": Class.INTERNAL,
        "product_id": Class.INTERNAL,
        "quantity": Class.INTERNAL,
        "unit_price": Class.CONFIDENTIAL,
    },
    routes=(CacheRoute(keys=("order:{order_id}",)), RawAnalytics()),
)
