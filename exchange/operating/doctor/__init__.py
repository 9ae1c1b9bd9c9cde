"""Doctor: everything one side needs in order to work, each fault with what to do about it.

``examine`` looks at all of it; its modules are by subject, and what they find is a ``Finding``.
"""

from exchange.operating.doctor.finding import Alarm, Finding, Level

__all__ = ["Alarm", "Finding", "Level"]
