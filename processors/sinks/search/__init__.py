"""The search sink: products joined with stock and ratings, and reviews, in Elasticsearch.

`route` says what a change means (pure), `sink` writes it. Nothing is imported here: tables need the routes without the
client library, which only a worker loads.
"""
