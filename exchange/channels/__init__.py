"""What an application declares: channels, their streams, and how the values of each column are written.

``exchange.channels:Channel`` and ``Stream`` are all that a declaration needs; ``check`` says what is wrong with one.
"""

from exchange.channels.channel import Channel, ChannelFaults, check
from exchange.channels.hooks import HookRows
from exchange.channels.stream import Stream

__all__ = ["Channel", "ChannelFaults", "HookRows", "Stream", "check"]
