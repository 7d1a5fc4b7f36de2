"""The stream: changes decoded, routed, delivered to the sinks and measured on the way."""
