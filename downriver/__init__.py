"""The front door: settings, output and the command line that composes the rooms' own commands."""
