"""What an application declares: channels, their streams, and how the values of each column are written.

``exchange.channels:Channel`` and ``Stream`` are all that a declaration needs, and ``Intake`` for files of people;
``check`` says what is wrong with one, and ``register_codec`` brings a type of the application's own.
"""

from exchange.channels.channel import Channel, ChannelFaults, check
from exchange.channels.codecs import register_codec
from exchange.channels.hooks import HookRows
from exchange.channels.intake import Intake, Written
from exchange.channels.stream import Stream

__all__ = ["Channel", "ChannelFaults", "HookRows", "Intake", "Stream", "Written", "check", "register_codec"]
