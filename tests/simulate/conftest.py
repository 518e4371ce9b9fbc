"""Fixtures of the tests of simulated swarms."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Vectors this short are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
