"""What a side tells of itself, over HTTP: one small ASGI process that only reads."""
