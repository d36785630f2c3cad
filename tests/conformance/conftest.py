"""Every test of this folder is of the conformance suite: `pytest -m conformance`."""

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.conformance)
