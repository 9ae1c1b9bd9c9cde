"""What a side tells of itself unasked: health, metrics, alarms and reports, all from what doctor finds."""
