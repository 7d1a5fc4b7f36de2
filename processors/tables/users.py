"""`public.users`: personal data. The e-mail travels on the topic because cache keys need it, and goes nowhere else."""

from __future__ import annotations

from processors.change import TableId
from processors.sinks.analytics.route import DecodedAnalytics
from processors.sinks.cache.route import CacheRoute
from processors.tables.base import Class, Lane, Table

USERS = Table(
    id=TableId("public", "users"),
    lane=Lane.ACCOUNTS,
    key=("id",),
    columns={
        "id": Class.INTERNAL,
        "email": Class.RESTRICTED,
        "name": Class.RESTRICTED,
        "phone": Class.RESTRICTED,
        "password_hash": Class.RESTRICTED,
        "status": Class.INTERNAL,
        "date_of_birth": Class.RESTRICTED,
        "country": Class.INTERNAL,
        "metadata": Class.RESTRICTED,
        "created_at": Class.INTERNAL,
        "updated_at": Class.INTERNAL,
        "deleted_at": Class.INTERNAL,
        "purge_after": Class.INTERNAL,
    },
    captured_restricted=frozenset({"email"}),
    routes=(
        CacheRoute(keys=("user:{id}", "user:email:{email}"), tags=("users:active",)),
        DecodedAnalytics(columns=("id", "status", "country", "created_at", "updated_at", "deleted_at", "purge_after")),
    ),
)
