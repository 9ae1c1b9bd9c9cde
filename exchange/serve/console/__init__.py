"""The console: pages for people. Each calls what ``exchange.api`` has, and shows it; none knows anything by itself."""
