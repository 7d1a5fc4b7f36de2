"""What Alembic runs around the migrations: one transaction for all of them, on the connection that shop.migrate hands over.

It reads no file and knows no address: connection and names come as attributes of the configuration.
"""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
