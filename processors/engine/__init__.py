"""The only place that imports faust: transport, delivery, the worker."""
