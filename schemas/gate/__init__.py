"""The migration gate: what a SQL migration does to the change stream and to every sink, told before it runs.

The one part of this room that knows what is downstream: judging consequences is its job.
"""
