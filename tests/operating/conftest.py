"""Processes of one side, as the tests of Celery start them."""

from tests.celery.conftest import side
from tests.crossing.conftest import alike, link, quick_receiver, receiver, small

__all__ = ["alike", "link", "quick_receiver", "receiver", "side", "small"]
