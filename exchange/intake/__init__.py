"""People's files become rows: dropped, claimed, loaded by segments through the loader, past bad rows."""
