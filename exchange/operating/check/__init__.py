"""Check: what one side can prove of itself, and with both sides at hand whether they agree."""
