"""Propagation: how long a change took from its commit until a reader of a sink saw it, and what nobody sees yet."""
