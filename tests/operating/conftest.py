"""Processes of one side, as the tests of Celery start them."""

from tests.celery.conftest import side

__all__ = ["side"]
