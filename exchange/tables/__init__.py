"""The application's tables: what reads changes from them, and what writes rows into them."""
