"""The API over HTTP, ``/api/v1``: JSON over what ``exchange.api`` has, from one table of what may be asked."""
