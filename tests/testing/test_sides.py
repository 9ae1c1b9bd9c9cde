"""Two sides in somebody else's tests: the page's example, run by a pytest within this one."""

from __future__ import annotations

import pytest

from tests.embedding import EMBEDDED

pytest_plugins = ["pytester"]


def test_an_applications_own_tests_have_two_sides_and_a_carrier_in_three_lines(pytester: pytest.Pytester) -> None:
    for name in ("shop.py", "conftest.py", "test_shop.py"):
        pytester.path.joinpath(name).write_text(EMBEDDED[name])
    pytester.syspathinsert()
    pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist", "-W", "error").assert_outcomes(passed=2)


@pytest.mark.thorough
def test_without_channels_a_sentence_says_where_they_are_given(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["exchange.testing.fixtures"]')
    pytester.makepyfile("def test_it(exchange_sides): ...")
    done = pytester.runpytest_inprocess("-p", "no:xdist")
    done.stdout.fnmatch_lines(["*exchange_channels: define this fixture in conftest.py*"])
