"""`public.reviews`. The record key is (product_id, id), not the primary key: a review that moves to another product is a
delete under the one and a create under the other, each in its product's partition."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.sinks.search.route import ReviewRoute
from processors.tables.base import Class, Lane, Table

REVIEWS = Table(
    id=TableId("public", "reviews"),
    lane=Lane.CATALOG,
    key=("product_id", "id"),
    columns={
        "id": Class.PUBLIC,
        "product_id": Class.PUBLIC,
        "user_id": Class.INTERNAL,
        "rating": Class.PUBLIC,
        "title": Class.PUBLIC,
        "body": Class.PUBLIC,
        "status": Class.INTERNAL,
        "created_at": Class.PUBLIC,
        "updated_at": Class.INTERNAL,
    },
    otherwise=Class.INTERNAL,
    routed_by="product_id",
    routes=(CacheRoute(keys=("product:{product_id}",)), ReviewRoute(), RawAnalytics()),
)
