"""Fixtures of all families: every test runs on every SIMD level that this machine has."""

import os

import hypothesis
import pytest

import stableops
from stableops import _core

hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=10_000, deadline=None)


hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_ignore_collect(collection_path, config):
    """Collecting the conformance suite imports the peers, so only a run that wants it does."""
    if "conformance" in collection_path.parts and config.option.markexpr == "not conformance":
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if "conformance" in item.path.parts:
            item.add_marker(pytest.mark.conformance)


def pytest_report_header():
    return f"stableops: SIMD levels {', '.join(stableops.available_isas())}"


@pytest.fixture(params=stableops.available_isas(), scope="module", autouse=True)
def isa(request):
    """The SIMD level that the test runs on."""
    before = stableops.active_isa()
    _core.set_active_isa(request.param)
    yield request.param
    _core.set_active_isa(before)


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """The number of threads that the test runs with."""
    before = stableops.get_num_threads()
    stableops.set_num_threads(request.param)
    yield request.param
    stableops.set_num_threads(before)
