"""One home works with a database: another one is refused, and a home that moved is not another one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.files import home_id
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.link.home import check_home, take_over
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.sides import Link, Side


def at(side: Side, home: Path) -> Site:
    """Give the site as another home of the same database has it."""
    site = replace(side.site, spool=Spool(Folders(home, home / "outgoing", home / "incoming")))
    site.spool.prepare(make=True)
    return site


def test_of_two_homes_over_one_database_the_second_is_refused(small: Link, tmp_path: Path) -> None:
    side = small.one
    side.execute(sa.insert(shop.account), [{"id": 1, "name": "a", "age": 1}])
    assert len(side.export().batches) == 1
    side.execute(sa.insert(shop.account), [{"id": 2, "name": "b", "age": 1}])
    first = side.site

    side.site = at(side, tmp_path / "second")
    for trouble in (side.export().trouble, side.take_in().trouble):
        assert str(first.spool.folders.home) in str(trouble)
        assert "of two homes over one database each would miss what the other one took" in str(trouble)
        assert "give this one a database of its own" in str(trouble)
    assert side.all(sa.select(tables.change))

    take_over(side.site)
    side.site = replace(side.site, spool=Spool(side.site.spool.folders))
    assert len(side.export().batches) == 1
    side.site = replace(first, spool=Spool(first.spool.folders))
    assert "each would miss" in str(side.export().trouble)


def test_a_home_that_moved_or_was_restored_is_the_same_and_a_copy_is_not(small: Link, tmp_path: Path) -> None:
    side = small.one
    assert side.export().trouble is None
    home = side.home
    number = home_id.read(home)

    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    with pytest.raises(Exception, match="each would miss"):
        check_home(at(side, copy))
    home.rename(tmp_path / "moved")
    check_home(at(side, tmp_path / "moved"))
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    check_home(at(side, tmp_path / "link"))
    (tmp_path / "moved").rename(home)
    home_id.path_of(home).unlink()
    check_home(at(side, home))
    assert home_id.read(home) == number
