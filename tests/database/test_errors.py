from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import change
from exchange.format.errors import TransientError


def test_a_database_without_our_tables_is_answered_with_one_sentence(engine: Engine) -> None:
    with pytest.raises(TransientError, match="exchange migrate"), transient_errors(), reading(engine) as connection:
        connection.execute(sa.select(change))
