"""The reference application: one network asks, the other owns the users and answers.

``channels`` is what ``EXCHANGE_APP`` names by default, and an example of a declaration.
"""

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.reference.models import ProfileType, Request, Response, User

__all__ = ["channels"]

channels = (
    Channel(
        "directory",
        source="response",
        target="request",
        streams=[Stream(ProfileType), Stream(User, exclude=["password_hash"], sensitive=["email"])],
    ),
    Channel(
        "requests",
        source="request",
        target="response",
        streams=[Stream(Request, sensitive=["query", "parameters"])],
    ),
    Channel(
        "responses",
        source="response",
        target="request",
        streams=[Stream(Response, sensitive=["result", "error"])],
    ),
)
"""What crosses between the two networks. The password's hash never does."""
