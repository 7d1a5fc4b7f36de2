"""Customers and staff of the shop, as a steady stream of transactions."""
