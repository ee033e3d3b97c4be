"""The names that `import llava` offers load on first use."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import llava


@pytest.mark.parametrize("name", [name for name in llava.__all__ if name != "__version__"])
def test_a_lazy_name_is_the_object_of_its_home(name):
    value = getattr(llava, name)
    assert value is vars(llava)[name], "kept after the first use"
    assert getattr(value, "__name__", name) == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LlavaMPT'"):
        llava.LlavaMPT  # noqa: B018


def test_the_package_says_that_it_is_typed(repository: Path):
    assert (repository / "llava" / "py.typed").exists()
    assert runpy.run_path(str(repository / "llava" / "__init__.py"))["__version__"] == llava.__version__
