"""`public.products`: what the shop sells. A price change is an update here whose price or currency differs."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.sinks.search.route import ProductRoute
from processors.tables.base import Class, Lane, Table

PRODUCTS = Table(
    id=TableId("public", "products"),
    lane=Lane.CATALOG,
    key=("id",),
    columns={
        "id": Class.PUBLIC,
        "sku": Class.PUBLIC,
        "name": Class.PUBLIC,
        "description": Class.PUBLIC,
        "category": Class.PUBLIC,
        "tags": Class.PUBLIC,
        "attributes": Class.PUBLIC,
        "price": Class.PUBLIC,
        "currency": Class.PUBLIC,
        "status": Class.INTERNAL,
        "created_at": Class.INTERNAL,
        "updated_at": Class.INTERNAL,
    },
    otherwise=Class.INTERNAL,
    routed_by="id",
    routes=(
        CacheRoute(keys=("product:{id}",), tags=("products:category:{category}",)),
        ProductRoute(),
        RawAnalytics(),
    ),
)
