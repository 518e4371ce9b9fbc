"""The outer step: the bits that every node must get, and the optimizer that it is."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.outer import outer_step


def arrays(seed: int, n: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n).astype(np.float32) for _ in range(count)]


@given(st.integers(0, 1000), st.floats(0.0, 2.0), st.floats(0.0, 0.99))
def test_every_product_and_sum_is_rounded_on_its_own(seed: int, lr: float, beta: float):
    parameters, momentum, mean = arrays(seed, 64, 3)
    lr32, beta32 = np.float32(lr), np.float32(beta)
    exact_v = [np.float32(np.float32(m * beta32) + d) for m, d in zip(momentum, mean, strict=True)]
    exact_p = [
        np.float32(p - np.float32(np.float32(d + np.float32(v * beta32)) * lr32))
        for p, d, v in zip(parameters, mean, exact_v, strict=True)
    ]
    outer_step(parameters, momentum, mean, lr, beta, np.empty_like(mean))
    assert momentum.tobytes() == np.array(exact_v, dtype=np.float32).tobytes()
    assert parameters.tobytes() == np.array(exact_p, dtype=np.float32).tobytes()


def test_it_is_nesterov_sgd_as_torch_has_it():
    start, *means = arrays(1, 1000, 6)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    ours, momentum = start.copy(), np.zeros_like(start)
    for mean in means:
        theirs.grad = torch.from_numpy(mean.copy())
        optimizer.step()
        outer_step(ours, momentum, mean, 0.7, 0.9, np.empty_like(mean))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 63), st.integers(0, 1000))
def test_where_a_vector_is_cut_changes_no_bit(cut: int, seed: int):
    whole, parts = arrays(seed, 64, 3), arrays(seed, 64, 3)
    outer_step(whole[0], whole[1], whole[2], 0.6, 0.9, np.empty(64, dtype=np.float32))
    for part in (slice(0, cut), slice(cut, 64)):
        p, m, d = (a[part] for a in parts)
        outer_step(p, m, d, 0.6, 0.9, np.empty_like(d))
    assert whole[0].tobytes() == parts[0].tobytes() and whole[1].tobytes() == parts[1].tobytes()


def test_padding_stays_zero():
    zeros = [np.zeros(16, dtype=np.float32) for _ in range(4)]
    outer_step(*zeros[:3], 0.7, 0.9, zeros[3])
    assert not any(z.any() for z in zeros)
