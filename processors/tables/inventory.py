"""`public.inventory`: stock by warehouse, the hottest table, with the strictest rule and a lane of its own."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.sinks.search.route import StockRoute
from processors.tables.base import Class, Lane, Table

INVENTORY = Table(
    id=TableId("public", "inventory"),
    lane=Lane.INVENTORY,
    key=("product_id", "warehouse_id"),
    columns={
        "product_id": Class.INTERNAL,
        "warehouse_id": Class.INTERNAL,
        "quantity": Class.INTERNAL,
        "reserved": Class.INTERNAL,
        "updated_at": Class.INTERNAL,
    },
    otherwise=Class.INTERNAL,
    routed_by="product_id",
    routes=(CacheRoute(keys=("product:{product_id}", "inventory:{product_id}")), StockRoute(), RawAnalytics()),
)
