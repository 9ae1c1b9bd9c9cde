"""Sides as the tests of crossings and of commands have them."""

from __future__ import annotations

from tests.cli.conftest import _elsewhere, any_pair, pair, parked, seeded
from tests.crossing.conftest import alike, small

__all__ = ["_elsewhere", "alike", "any_pair", "pair", "parked", "seeded", "small"]
