"""The wkv7 recurrence in chunks of 16 steps, in torch operations that autograd and any device know.

The step is S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_tᵀ + v_t k_tᵀ, read as y_t = S_t r_t. With P_t the product of
the decays of a chunk so far and Ŝ_t = S_t diag(1 / P_t), the decay leaves the sum. Let

    ã_t = P_{t-1} a_t,   r̃_t = P_t r_t,   b̃_t = b_t / P_t,   k̃_t = k_t / P_t,   u_t = S_{t-1} a_t.

Then u_t = S_0 ã_t + Σ_{s<t} (u_s b̃_s·ã_t + v_s k̃_s·ã_t): a unit triangular system that is solved for all chunks at
once. Only the state goes from chunk to chunk: U = W S_0ᵀ + Z, S_L = (S_0 + Uᵀ B̃ + Vᵀ K̃) diag(P_L).

A decay is at least exp(-exp(-0.5)) = 0.545, so 1 / P stays below 2e4 within 16 steps; float32 carries that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16


def in_chunks(x: Tensor, filling: float = 0.0) -> Tensor:
    """(B,T,H,N) -> (B,H,chunks,CHUNK,N); the last chunk is filled up with steps that change nothing."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % CHUNK), value=filling)
    batch, steps, heads, size = x.shape
    return x.view(batch, steps // CHUNK, CHUNK, heads, size).permute(0, 3, 1, 2, 4)


def chunked_wkv(
    r: Tensor, decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All (B,T,H,N), float32 or float64; state (B,H,N,N) as [value][key]. Returns reads (B,T,H,N), final state."""
    steps = r.shape[1]
    r, k, v, a, b = (in_chunks(x) for x in (r, k, v, a, b))
    decay = in_chunks(decay, filling=1.0)
    so_far = decay.cumprod(-2)
    a, r, b, k = a * (so_far / decay), r * so_far, b / so_far, k / so_far
    before = r.new_ones(CHUNK, CHUNK).tril(-1)  # [t][s]: s < t
    up_to = r.new_ones(CHUNK, CHUNK).tril()
    system = torch.eye(CHUNK, dtype=r.dtype, device=r.device) - (a @ b.mT) * before
    known = torch.cat([a, ((a @ k.mT) * before) @ v], -1)
    w, z = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True).chunk(2, -1)
    added = v.mT @ k
    states, removed = [], []
    for chunk in range(r.shape[2]):
        states.append(state)
        removed.append(w[:, :, chunk] @ state.mT + z[:, :, chunk])
        state = (state + removed[-1].mT @ b[:, :, chunk] + added[:, :, chunk]) * so_far[:, :, chunk, -1:]
    u, starts = torch.stack(removed, 2), torch.stack(states, 2)
    reads = r @ starts.mT + ((r @ b.mT) * up_to) @ u + ((r @ k.mT) * up_to) @ v
    return reads.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :steps], state
