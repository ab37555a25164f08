import numba
import pytest
from numba.core import caching

from mlanet_lib.geometry.compiled import compiled


def double(x):
    return 2 * x


def test_kernels_are_compiled_where_no_folder_for_a_cache_is_to_be_had(monkeypatch):
    """As for a user without a home folder, of a library that is not the user's."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(double)
    assert compiled(double)(4) == 8
