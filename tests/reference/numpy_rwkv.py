"""RWKV-4, 5.0, 5.1, 5.2, 6 and 7 in plain numpy, one token at a time: the project's reference implementation.

Weights are a dict of float arrays with the names, shapes and parameterisation of an official .pth. States are
:class:`webapp.engine.state.RecurrentState`. It is slow; every line can be compared with a paper:

* RWKV-4: Peng et al. 2023 (arXiv 2305.13048), and ``RWKV_in_150_lines.py`` of BlinkDL/ChatRWKV.
* RWKV-5 and 6: "Eagle and Finch", Peng et al. 2024 (arXiv 2404.05892), and ``RWKV_v6_demo.py`` of ChatRWKV.
* RWKV-7: "Goose", Peng et al. 2025 (arXiv 2503.14456), and ``RWKV-v7/rwkv_v7_demo.py`` of BlinkDL/RWKV-LM.

Group norm: variance epsilon 64e-5 in all of BlinkDL's code. rwkv.cpp has 1e-5 for RWKV-5; ``group_norm_eps`` is for
comparing with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from webapp.engine.state import ModelConfig, RecurrentState

Array = np.ndarray
Weights = Callable[[str], Array]
LayerState = dict[str, Array]


class NumpyRwkv:
    """``forward`` is a pure function: it takes a state and returns a new one."""

    def __init__(
        self, config: ModelConfig, weights: dict[str, Array], dtype: type = np.float64, group_norm_eps: float = 64e-5
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.group_norm_eps = group_norm_eps
        self._weights = {name: np.asarray(array, dtype) for name, array in weights.items()}
        attentions = {"4": attention_v4, "6": attention_v6, "7": attention_v7}
        self._attention = attentions.get(config.architecture, attention_v5)

    def initial_state(self) -> RecurrentState:
        """Zero, or the ``time_state`` among the weights."""
        names = [f"blocks.{layer}.att.time_state" for layer in range(self.config.n_layer)]
        if names[0] not in self._weights:
            return RecurrentState.zeros(self.config)
        return RecurrentState.from_time_state(self.config, np.stack([self._weights[name] for name in names]))

    def forward(self, token_ids: Sequence[int], state: RecurrentState | None = None) -> tuple[Array, RecurrentState]:
        """Logits ``(len(token_ids), vocab_size)``, one row after each token, and the state after the last."""
        start = state or self.initial_state()
        arrays = {name: array.astype(self.dtype) for name, array in start.arrays.items()}
        logits = np.stack([self._one_token(token_id, arrays) for token_id in token_ids])
        return logits, RecurrentState(start.architecture, {name: a.astype(np.float32) for name, a in arrays.items()})

    def _one_token(self, token_id: int, arrays: dict[str, Array]) -> Array:
        w = self._weights
        x = layer_norm(w["emb.weight"][token_id], w["blocks.0.ln0.weight"], w["blocks.0.ln0.bias"])
        v_first: list[Array] = []  # RWKV-7 passes the first layer's value to all others
        for layer in range(self.config.n_layer):
            block = self._reader(f"blocks.{layer}.")
            att, ffn = self._reader(f"blocks.{layer}.att."), self._reader(f"blocks.{layer}.ffn.")
            state: LayerState = {name: array[layer] for name, array in arrays.items()}  # views, modified in place
            normed = layer_norm(x, block("ln1.weight"), block("ln1.bias"))
            x = x + self._attention(self, att, normed, state, v_first)
            state["att_x_prev"][:] = normed
            normed = layer_norm(x, block("ln2.weight"), block("ln2.bias"))
            x = x + feed_forward(self.config.major, ffn, normed, state["ffn_x_prev"])
            state["ffn_x_prev"][:] = normed
        return w["head.weight"] @ layer_norm(x, w["ln_out.weight"], w["ln_out.bias"])

    def _reader(self, prefix: str) -> Weights:
        """Small tensors have shapes like (1, 1, n_embd) and are flattened; matrices and tensors with heads keep
        theirs."""

        def read(name: str) -> Array:
            array = self._weights[prefix + name]
            return array.reshape(-1) if array.shape[:2] == (1, 1) else array

        return read


def attention_v4(model: NumpyRwkv, w: Weights, x: Array, state: LayerState, v_first: list[Array]) -> Array:
    """A weighted mean of all values so far, ``aa / bb``, in logarithms relative to the running maximum ``pp``."""
    x_prev = state["att_x_prev"]
    r = sigmoid(w("receptance.weight") @ lerp(x_prev, x, w("time_mix_r")))
    k = w("key.weight") @ lerp(x_prev, x, w("time_mix_k"))
    v = w("value.weight") @ lerp(x_prev, x, w("time_mix_v"))
    aa, bb, pp = state["att_aa"], state["att_bb"], state["att_pp"]

    bonus = w("time_first") + k
    top = np.maximum(pp, bonus)
    old, new = np.exp(pp - top), np.exp(bonus - top)
    wkv = (old * aa + new * v) / (old * bb + new)

    decayed = pp - np.exp(w("time_decay"))
    top = np.maximum(decayed, k)
    old, new = np.exp(decayed - top), np.exp(k - top)
    aa[:], bb[:], pp[:] = old * aa + new * v, old * bb + new, top
    return w("output.weight") @ (r * wkv)


def attention_v5(model: NumpyRwkv, w: Weights, x: Array, state: LayerState, v_first: list[Array]) -> Array:
    """Matrix-valued heads with a fixed decay: one number per head (5.0, 5.1) or one per key channel (5.2)."""
    c, x_prev = model.config, state["att_x_prev"]
    decay = np.exp(-np.exp(w("time_decay"))).reshape(c.n_head, -1)
    # 5.0 stores the bonus as a logarithm; from 5.1 it is the factor itself and has another name.
    bonus = np.exp(w("time_first")) if c.architecture == "5.0" else w("time_faaaa")
    r = heads(c, w("receptance.weight") @ lerp(x_prev, x, w("time_mix_r")))
    k = heads(c, w("key.weight") @ lerp(x_prev, x, w("time_mix_k")))
    v = heads(c, w("value.weight") @ lerp(x_prev, x, w("time_mix_v")))
    out = linear_attention(state["att_kv"], r, k, v, decay, bonus.reshape(c.n_head, -1))
    out = group_norm(out, w("ln_x.weight"), w("ln_x.bias"), model.group_norm_eps)
    if c.architecture != "5.0":
        out = out * silu(w("gate.weight") @ lerp(x_prev, x, w("time_mix_g")))
    return w("output.weight") @ out


def attention_v6(model: NumpyRwkv, w: Weights, x: Array, state: LayerState, v_first: list[Array]) -> Array:
    """As 5.2, but token shift and decay depend on the token, through low-rank matrices."""
    c = model.config
    dx = state["att_x_prev"] - x
    low = np.tanh((x + dx * w("time_maa_x")) @ w("time_maa_w1")).reshape(5, -1)
    shift = [low[i] @ w("time_maa_w2")[i] for i in range(5)]
    xw, xk, xv, xr, xg = (x + dx * (w(f"time_maa_{name}") + s) for name, s in zip("wkvrg", shift, strict=True))

    log_log_decay = w("time_decay") + np.tanh(xw @ w("time_decay_w1")) @ w("time_decay_w2")
    decay = np.exp(-np.exp(log_log_decay)).reshape(c.n_head, c.head_size)
    r, k, v = (heads(c, w(f"{name}.weight") @ part) for name, part in (("receptance", xr), ("key", xk), ("value", xv)))
    out = linear_attention(state["att_kv"], r, k, v, decay, w("time_faaaa"))
    out = group_norm(out, w("ln_x.weight"), w("ln_x.bias"), model.group_norm_eps)
    return w("output.weight") @ (out * silu(w("gate.weight") @ xg))


def attention_v7(model: NumpyRwkv, w: Weights, x: Array, state: LayerState, v_first: list[Array]) -> Array:
    """A generalised delta rule changes the state: the value stored for key ``kk`` is removed by the factor ``a``."""
    c = model.config
    dx = state["att_x_prev"] - x
    xr, xw, xk, xv, xa, xg = (x + dx * w(f"x_{name}") for name in "rwkvag")
    r = w("receptance.weight") @ xr
    k = w("key.weight") @ xk
    v = w("value.weight") @ xv
    a = sigmoid(w("a0") + (xa @ w("a1")) @ w("a2"))
    g = sigmoid(xg @ w("g1")) @ w("g2")
    decay = np.exp(-np.exp(-0.5) * sigmoid(w("w0") + np.tanh(xw @ w("w1")) @ w("w2")))

    kk = heads(c, k * w("k_k"))
    kk = kk / np.maximum(np.linalg.norm(kk, axis=-1, keepdims=True), 1e-12)
    k = k * (1 + (a - 1) * w("k_a"))
    if v_first:
        v = v + (v_first[0] - v) * sigmoid(w("v0") + (xv @ w("v1")) @ w("v2"))
    else:
        v_first.append(v)

    r, k, v, a, decay = (heads(c, part) for part in (r, k, v, a, decay))
    kv = state["att_kv"]  # [head, value, key]
    removed = np.einsum("hvk,hk->hv", kv, -kk)
    kv[:] = kv * decay[:, None, :] + outer(removed, kk * a) + outer(v, k)
    out = group_norm(np.einsum("hvk,hk->hv", kv, r), w("ln_x.weight"), w("ln_x.bias"), model.group_norm_eps)
    out = out + ((r * k * w("r_k")).sum(-1, keepdims=True) * v).reshape(-1)
    return w("output.weight") @ (out * g)


def linear_attention(kv: Array, r: Array, k: Array, v: Array, decay: Array, bonus: Array) -> Array:
    """``r`` read from the past plus this token's ``v k`` weighted by ``bonus``; updates ``kv[head, value, key]``. Decay
    and bonus apply to the key channel. Arrays ``(n_head, head_size)``; ``decay`` and ``bonus`` may have width one."""
    now = outer(v, k)
    out = np.einsum("hvk,hk->hv", kv + now * bonus[:, None, :], r)
    kv[:] = kv * decay[:, None, :] + now
    return out


def feed_forward(major: int, w: Weights, x: Array, x_prev: Array) -> Array:
    """Squared ReLU; gated by a receptance up to RWKV-6."""
    if major == 7:
        return w("value.weight") @ relu_squared(w("key.weight") @ (x + (x_prev - x) * w("x_k")))
    if major == 6:
        xk, xr = (x + (x_prev - x) * w(f"time_maa_{name}") for name in "kr")
    else:
        xk, xr = (lerp(x_prev, x, w(f"time_mix_{name}")) for name in "kr")
    return sigmoid(w("receptance.weight") @ xr) * (w("value.weight") @ relu_squared(w("key.weight") @ xk))


def lerp(x_prev: Array, x: Array, mix: Array) -> Array:
    """In RWKV-4 and 5, ``mix`` is the part of the present token; in 6 and 7, that of the previous one."""
    return x * mix + x_prev * (1 - mix)


def heads(config: ModelConfig, x: Array) -> Array:
    return x.reshape(config.n_head, config.head_size)


def outer(rows: Array, columns: Array) -> Array:
    """Per head: ``(n_head, N), (n_head, N) -> (n_head, N, N)``."""
    return rows[:, :, None] * columns[:, None, :]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def group_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Normalises each head separately; takes ``(n_head, head_size)``, returns a flat array."""
    return layer_norm(x, np.ones(1), np.zeros(1), eps).reshape(-1) * weight + bias


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def relu_squared(x: Array) -> Array:
    return np.maximum(x, 0) ** 2
