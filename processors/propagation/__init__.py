"""Rules, and the time from a commit to the moment a reader of a sink sees it."""
