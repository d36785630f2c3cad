"""The structure: every family has its files, includes point one way, exports are documented."""

import inspect
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

import stableops

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"

FAMILIES = sorted(path.stem for path in (CSRC / "isa").glob("*.cpp"))

# Which folders a file of csrc may include from; "" is csrc itself.
ARROWS = {
    "simd": {"simd", "isa", ""},
    "ops": {"ops", "simd", "runtime", "isa", ""},
    "isa": {"isa", "ops", ""},
    "runtime": {"runtime"},
    "bindings": {"bindings", "runtime", ""},
    "": {"isa", ""},
}


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level."""


@pytest.mark.parametrize("family", FAMILIES)
def test_family_has_its_files(family):
    for path in (
        f"csrc/ops/{family}.h",
        f"csrc/bindings/{family}.cpp",
        f"src/stableops/_{family}.py",
        f"tests/test_{family}.py",
    ):
        assert (ROOT / path).is_file(), f"{path} is missing"


def test_includes_point_one_way():
    checked = 0
    for path in [*CSRC.rglob("*.h"), *CSRC.rglob("*.cpp")]:
        folder = path.relative_to(CSRC).parts[0] if path.parent != CSRC else ""
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            target = (path.parent / include).resolve()
            assert target.is_file(), f"{path} includes {include}, which is not there"
            inner = target.relative_to(CSRC)
            to = inner.parts[0] if len(inner.parts) > 1 else ""
            assert to in ARROWS[folder], f"{path.relative_to(ROOT)} includes {inner}"
            checked += 1
    assert checked > 10


def test_only_levels_h_is_shared_with_the_table():
    """kernels.h knows tags and plain structs, no kernel code."""
    for include in re.findall(r'#include "([^"]+)"', (CSRC / "kernels.h").read_text()):
        assert not include.startswith(("ops/", "simd/", "runtime/"))


def test_only_bindings_know_python():
    for folder in ("ops", "simd", "isa", "runtime"):
        for path in (CSRC / folder).iterdir():
            assert not re.search(r"#include [<\"](pybind11|Python|numpy)", path.read_text()), path


@pytest.mark.parametrize("name", [n for n in stableops.__all__ if not n.startswith("__")])
def test_public_function_is_documented(name):
    function = getattr(stableops, name)
    doc = inspect.getdoc(function)
    assert doc, f"{name} has no docstring"
    assert ">>> " in doc, f"{name} has no example"
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^\s*(\w+, )*{parameter}(, \w+)* : ", doc, re.MULTILINE), (
            f"{name} does not document {parameter}"
        )


def test_exports_are_sorted_and_complete():
    assert sorted(stableops.__all__) == stableops.__all__
    for module in (ROOT / "src" / "stableops").glob("_*.py"):
        if module.stem in {"__init__", "__main__"}:
            continue
        names = re.search(r"^__all__ = \[(.*?)\]", module.read_text(), re.MULTILINE | re.DOTALL)
        assert names, f"{module.name} has no __all__"


@pytest.mark.skipif(shutil.which("strip") is None, reason="needs strip (package binutils)")
def test_wheel_is_small(tmp_path):
    """Under 3 MB compressed, as a wheel is: more means that kernels are instantiated too often."""
    extension = Path(stableops._core.__file__)
    stripped = tmp_path / extension.name
    subprocess.run(["strip", "-o", stripped, extension], check=True)
    compressed = len(zlib.compress(stripped.read_bytes(), 6))
    package = [
        path
        for path in (ROOT / "src" / "stableops").rglob("*")
        if path.suffix not in {".so", ".pyc"}
    ]
    others = sum(len(zlib.compress(path.read_bytes(), 6)) for path in package if path.is_file())
    assert compressed + others < 3_000_000
