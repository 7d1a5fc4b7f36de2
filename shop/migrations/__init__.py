"""The shop's schema as versioned, reversible migrations (Alembic, raw SQL). Run by shop.migrate, from any folder."""
