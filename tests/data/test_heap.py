"""While rows and examples are made no garbage is looked for, and afterwards it is as before, whatever happened."""

from __future__ import annotations

import gc

import pytest

from zofo.data.heap import growing


@pytest.mark.parametrize("before", [True, False])
def test_collection_is_as_before(before: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with growing(), growing():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(ValueError, match="a row"), growing():
            raise ValueError("a row")
        assert gc.isenabled() == before
        assert growing()(gc.isenabled)() is False
        assert growing()(gc.isenabled)() is False, "each call anew"
    finally:
        (gc.enable if was else gc.disable)()
