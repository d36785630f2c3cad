"""relu: exact, on every layout, dtype and level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import relu, relu_backward, same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, laid_out, with_specials

import stableops as so


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_relu(dtype, data):
    x = data.draw(arrays(dtype, elements=with_specials(dtype)))
    layout = data.draw(st.sampled_from(LAYOUTS))
    x = laid_out(x, layout)
    assert same_bits(so.relu(x), relu(x))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_relu_backward(dtype, data):
    y = data.draw(arrays(dtype, elements=with_specials(dtype)))
    g = data.draw(arrays(dtype, shape=y.shape))
    g = laid_out(g, data.draw(st.sampled_from(LAYOUTS)))
    assert same_bits(so.relu_backward(g, y), relu_backward(g, y))


def test_relu_signed_zero_and_nan():
    y = so.relu(np.array([-0.0, 0.0, np.nan, -np.inf, np.inf]))
    assert same_bits(y, np.array([0.0, 0.0, np.nan, 0.0, np.inf]))


def test_shapes_that_differ():
    with pytest.raises(
        ValueError, match=r"grad_output has shape \(2,\) and output has shape \(3,\)"
    ):
        so.relu_backward(np.ones(2), np.ones(3))
