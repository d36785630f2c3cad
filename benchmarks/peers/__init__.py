"""The libraries that take part: one module each, all with the same small interface.

A module has ``load(threads) -> version`` and functions named as the operations of the cases. Such
a function receives the arrays of a case and its options, does what a user does once (make a
session, compile, pack the weights), and returns the call to time: no arguments, the result or a
tuple of results. The call starts and ends with NumPy arrays, so a library's own wrapping is part
of it. A function may return a pair (call, finish) where ``finish`` brings the result into the
common form for the comparison, outside the timing; it returns None for what the library lacks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """A library: its name in the tables, its module here, and where it comes from."""

    name: str
    module: str
    imports: Sequence[str]
    requirement: str
    isa_environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Environment variables that select a SIMD level, by the level's name."""

    @property
    def install(self) -> str:
        return f"pip install {self.requirement}"

    @property
    def missing(self) -> str | None:
        """The first import that is not installed, or None."""
        return next((name for name in self.imports if importlib.util.find_spec(name) is None), None)


OURS = "stableops"

PEERS = (
    Peer(
        OURS, "benchmarks.peers.with_stableops", ("stableops",), ".",
        {level: {"STABLEOPS_ISA": level} for level in ("baseline", "x86-64-v3", "x86-64-v4")},
    ),
    Peer(
        "PyTorch", "benchmarks.peers.with_torch", ("torch",), "torch==2.13.0",
        {
            "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
            "AVX-512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        },
    ),
    Peer(
        "ONNX Runtime", "benchmarks.peers.with_onnxruntime", ("onnx", "onnxruntime"),
        "onnx onnxruntime",
    ),
    Peer("JAX", "benchmarks.peers.with_jax", ("jax",), "jax jaxlib"),
    Peer("SciPy", "benchmarks.peers.with_scipy", ("scipy",), "scipy"),
    Peer(
        "OpenCV", "benchmarks.peers.with_opencv", ("onnx", "cv2"), "onnx opencv-python-headless",
    ),
    Peer(
        "torchvision", "benchmarks.peers.with_torchvision", ("torchvision",),
        "torchvision==0.28.0",
    ),
    Peer("lsnms", "benchmarks.peers.with_lsnms", ("lsnms",), "lsnms"),
    Peer("powerboxes", "benchmarks.peers.with_powerboxes", ("powerboxes",), "powerboxes"),
    Peer(
        "ensemble-boxes", "benchmarks.peers.with_ensemble_boxes", ("ensemble_boxes",),
        "ensemble-boxes",
    ),
    Peer(
        "NumPy", "benchmarks.peers.with_numpy", ("numpy",), "numpy",
        {
            "AVX2": {
                "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
                "OPENBLAS_CORETYPE": "Haswell",
            },
            "AVX-512": {"OPENBLAS_CORETYPE": "SkylakeX"},
        },
    ),
)  # fmt: skip
