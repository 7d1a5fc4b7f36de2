"""The captured tables. Adding one is one file here and one line below.

The outbox is none of them: its rows leave the source as events (docs/outbox.md).
"""

from __future__ import annotations

from processors.tables.addresses import ADDRESSES
from processors.tables.base import Table
from processors.tables.inventory import INVENTORY
from processors.tables.order_items import ORDER_ITEMS
from processors.tables.orders import ORDERS
from processors.tables.payments import PAYMENTS
from processors.tables.products import PRODUCTS
from processors.tables.reviews import REVIEWS
from processors.tables.users import USERS

TABLES: tuple[Table, ...] = (
    INVENTORY,
    PRODUCTS,
    REVIEWS,
    USERS,
    ADDRESSES,
    ORDERS,
    ORDER_ITEMS,
    PAYMENTS,
)
