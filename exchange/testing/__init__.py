"""Shipped for users' own tests: real servers out of wheels, and a carrier that misbehaves."""
