"""`public.addresses`: where a user lives stays at the source; downstream there is the kind and the country."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import RawAnalytics
from processors.tables.base import Class, Lane, Table

ADDRESSES = Table(
    id=TableId("public", "addresses"),
    lane=Lane.ACCOUNTS,
    key=("id",),
    columns={
        "id": Class.INTERNAL,
        "user_id": Class.INTERNAL,
        "kind": Class.INTERNAL,
        "street": Class.RESTRICTED,
        "city": Class.RESTRICTED,
        "zip": Class.RESTRICTED,
        "country": Class.INTERNAL,
        "is_default": Class.INTERNAL,
    },
    routes=(RawAnalytics(),),
)
