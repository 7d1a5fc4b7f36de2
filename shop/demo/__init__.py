"""The demo: the whole pipeline on one machine, a minute of a shop's life, and the proof that every sink shows it."""
