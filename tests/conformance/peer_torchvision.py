"""torchvision's models beside a CPU build of torch, where its compiled operators do not load.

The operators that torchvision only registers shapes for are declared first, so that the import
succeeds; the networks need none of them.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

INSTALL = "pip install torch==2.13.0 pillow && pip install --no-deps torchvision==0.28.0"

torch = pytest.importorskip("torch", reason=INSTALL)
pytest.importorskip("PIL", reason=INSTALL)
_found = importlib.util.find_spec("torchvision")
if _found is None:
    pytest.skip(INSTALL, allow_module_level=True)

# Under two names pytest imports this file twice: as a test's helper and for its doctests.
if "torchvision" not in sys.modules:
    _root = Path(next(iter(_found.submodule_search_locations)))
    _source = (_root / "_meta_registrations.py").read_text()
    _library = torch.library.Library("torchvision", "DEF")
    for _name in sorted(
        set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', _source))
    ):
        _library.define(f"{_name}(Tensor x) -> Tensor")

from torchvision import models  # noqa: E402

__all__ = ["models", "torch"]
