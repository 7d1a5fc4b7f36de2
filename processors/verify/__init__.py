"""Source against sinks, row by row."""
