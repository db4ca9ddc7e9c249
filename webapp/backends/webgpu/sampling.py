"""Samples tokens on the GPU, as :mod:`webapp.engine.sampler` defines, so that logits need not be read back.

The GPU applies adjustments, bans and masks; it computes the largest logit and the sum of exponentials of each block of
256 tokens, and from them a bound that few tokens reach. Those tokens are sent back with their logits, and numpy chooses
among them (``engine.sampler.draw_among``). Without a cut, the block sums show in which block the sample falls, and that
block is read. A whole line is read only if the cut is below the bound.

WGSL guarantees nothing about infinity and NaN, so logits are checked as bits, and a banned token is :data:`BANNED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from webapp.backends.webgpu.device import UNIFORM_SLICE, Gpu, guarded
from webapp.engine import sampler
from webapp.engine.sampler import NO_TOKEN, NOT_FINITE, Candidates, Sampled, SamplingBatch

BLOCK = 256
"""Tokens."""
BEST_BLOCKS = 64
"""The bound is the largest logit of the block with this rank, so at least this many tokens reach it."""
MAX_CANDIDATES = 256
HEADER = 8
"""Words before a line's candidates: their number, whether all logits are finite (0), peak, total, bound."""
BANNED = np.float32(-3.4e38)
LINES_AT_ONCE = 64
ADDITIONS = 1024
"""Initial capacity, for all lines together."""

P = "@group(0) @binding(1) var<uniform> p: array<vec4<u32>, 16>;"
CONSTANTS = f"""{P}
const BANNED: f32 = -3.4e38;
const BANNED_BITS: u32 = {BANNED.view(np.uint32)}u;"""
SHARED = f"""{CONSTANTS}
// line of the logits, row of allowed, 1 / temperature (bits), 0; first addition, their number, 0, 0
@group(0) @binding(2) var<storage, read> line: array<vec4<u32>>;
"""

# p[0]: stride of the logits, the first token id, tokens, and how many to write (with those that fill the last block).
# p[1]: stride of adjusted, words of a row of allowed, words of a line of found.
ADJUST = f"""{SHARED}
@group(0) @binding(3) var<storage, read> logits: array<u32>;
@group(0) @binding(4) var<storage, read> allowed: array<u32>;
@group(0) @binding(5) var<storage, read_write> adjusted: array<u32>;
@group(0) @binding(6) var<storage, read_write> found: array<atomic<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  if (g.x >= p[0].w) {{ return; }}
  let about = line[2u * g.y]; let id = p[0].y + g.x;
  var bits = BANNED_BITS;
  if (g.x < p[0].z) {{
    let raw = logits[about.x * p[0].x + g.x];
    if ((raw & 0x7f800000u) == 0x7f800000u) {{ atomicOr(&found[g.y * p[1].z + 1u], 1u); }}
    else if (((allowed[about.y * p[1].y + id / 32u] >> (id % 32u)) & 1u) == 1u) {{ bits = raw; }}
  }}
  adjusted[g.y * p[1].x + id] = bits;
}}"""

# p[0]: stride of adjusted.
ADD = f"""{SHARED}
@group(0) @binding(3) var<storage, read> addition: array<vec2<u32>>;  // token id, float32
@group(0) @binding(5) var<storage, read_write> adjusted: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  let about = line[2u * g.y + 1u];
  if (g.x >= about.y) {{ return; }}
  let one = addition[about.x + g.x]; let at = g.y * p[0].x + one.x;
  if (adjusted[at] > BANNED) {{ adjusted[at] = adjusted[at] + bitcast<f32>(one.y); }}
}}"""

# p[0]: stride of adjusted / 4, blocks.
SUM_UP = f"""{SHARED}
@group(0) @binding(5) var<storage, read> adjusted: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> block: array<vec4<f32>>;  // peak, sum, sum at the temperature, 0
var<workgroup> part: array<vec2<f32>, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let v = adjusted[g.y * p[0].x + g.x * 64u + l];
  part[l].x = max(max(v.x, v.y), max(v.z, v.w));
  workgroupBarrier();
  for (var k = 32u; k > 0u; k >>= 1u) {{
    if (l < k) {{ part[l].x = max(part[l].x, part[l + k].x); }}
    workgroupBarrier();
  }}
  let peak = part[0].x; let below = max(v - peak, vec4<f32>(-1e6)); let low = vec4<f32>(-87.0);
  let plain = exp(max(below, low)); let heated = exp(max(below * bitcast<f32>(line[2u * g.y].z), low));
  workgroupBarrier();
  part[l] = vec2<f32>(dot(plain, vec4<f32>(1.0)), dot(heated, vec4<f32>(1.0)));
  workgroupBarrier();
  for (var k = 32u; k > 0u; k >>= 1u) {{
    if (l < k) {{ part[l] += part[l + k]; }}
    workgroupBarrier();
  }}
  if (l == 0u) {{
    let empty = vec4<f32>(BANNED, 0.0, 0.0, 0.0);
    block[g.y * p[0].y + g.x] = select(vec4<f32>(peak, part[0], 0.0), empty, peak <= BANNED);
  }}
}}"""

# p[0]: blocks, words of a line of found, rank of the bound among the blocks' peaks (0: every token is a candidate).
BOUND = f"""{CONSTANTS}
@group(0) @binding(5) var<storage, read> block: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> found: array<u32>;
var<workgroup> part: array<f32, 256>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let n = p[0].x; let first = g.x * n; let out = g.x * p[0].y;
  var top = BANNED;
  for (var i = l; i < n; i += 256u) {{ top = max(top, block[first + i].x); }}
  part[l] = top;
  workgroupBarrier();
  for (var k = 128u; k > 0u; k >>= 1u) {{
    if (l < k) {{ part[l] = max(part[l], part[l + k]); }}
    workgroupBarrier();
  }}
  let peak = part[0];
  workgroupBarrier();
  var sum = 0.0;
  for (var i = l; i < n; i += 256u) {{ let b = block[first + i]; sum += b.y * exp(max(b.x - peak, -87.0)); }}
  part[l] = sum;
  workgroupBarrier();
  for (var k = 128u; k > 0u; k >>= 1u) {{
    if (l < k) {{ part[l] += part[l + k]; }}
    workgroupBarrier();
  }}
  if (l == 0u) {{
    found[out] = 0u; found[out + 2u] = bitcast<u32>(peak); found[out + 3u] = bitcast<u32>(part[0]);
    if (p[0].z == 0u) {{ found[out + 4u] = BANNED_BITS; }}
  }}
  for (var i = l; p[0].z > 0u && i < n; i += 256u) {{
    let mine = block[first + i].x; var rank = 1u;
    for (var j = 0u; j < n; j++) {{
      let other = block[first + j].x;
      rank += u32(other > mine || (other == mine && j < i));
    }}
    if (rank == p[0].z) {{ found[out + 4u] = bitcast<u32>(mine); }}
  }}
}}"""

# p[0]: stride of adjusted, words of a line of found, vocabulary.
COLLECT = f"""{CONSTANTS}
@group(0) @binding(5) var<storage, read> adjusted: array<f32>;
@group(0) @binding(6) var<storage, read_write> found: array<atomic<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  if (g.x >= p[0].z) {{ return; }}
  let v = adjusted[g.y * p[0].x + g.x]; let out = g.y * p[0].y;
  if (v <= BANNED || v < bitcast<f32>(atomicLoad(&found[out + 4u]))) {{ return; }}
  let place = atomicAdd(&found[out], 1u);
  if (place < {MAX_CANDIDATES}u) {{
    atomicStore(&found[out + {HEADER}u + 2u * place], g.x);
    atomicStore(&found[out + {HEADER + 1}u + 2u * place], bitcast<u32>(v));
  }}
}}"""

KERNELS = (ADJUST, ADD, SUM_UP, BOUND, COLLECT)


class Found(NamedTuple):
    """The result for one line; ``candidates`` is None if there were too many for the buffer."""

    is_finite: bool
    peak: np.float32
    candidates: Candidates | None


class GpuSampler:
    """Samples the lines of a model's last step. ``parts``: as ``WebgpuModel.head_parts``."""

    def __init__(self, gpu: Gpu, vocab_size: int, parts: Sequence[tuple[Any, int, int]], lines: int) -> None:
        self.gpu, self._parts, self._vocab_size = gpu, parts, vocab_size
        self._blocks = -(-vocab_size // BLOCK)
        self._stride = self._blocks * BLOCK
        self._words = -(-vocab_size // 32)
        self._found_words = HEADER + 2 * MAX_CANDIDATES
        self._most = max(1, min(lines, LINES_AT_ONCE, gpu.binding_bytes // (4 * self._stride)))
        self._line = gpu.buffer(32 * self._most)
        self._allowed = gpu.buffer(4 * self._words * (self._most + 2))
        """Row 0: tokens that may be sampled at all; row 1: all tokens; then the masks of lines."""
        self._adjusted = gpu.buffer(4 * self._stride * self._most)
        self._block = gpu.buffer(16 * self._blocks * self._most)
        self._found = gpu.buffer(4 * self._found_words * self._most)
        self._banned: NDArray[np.int32] | None = None
        self._usable = np.empty(0, np.uint32)
        self.lines_sampled = self.lines_read = 0
        """Number of lines sampled so far, and how many of them were read whole."""
        self._bind()
        with guarded():
            gpu.write(self._allowed, 4 * self._words, np.full(self._words, 0xFFFFFFFF, np.uint32))

    def sample(self, lines: Sequence[int], batch: SamplingBatch) -> Sampled:
        """As :meth:`webapp.engine.backend.Logits.sample`."""
        most = int(batch.alternatives.max(initial=-1))
        count = len(lines)
        token_ids = np.empty(count, np.int32)
        logprobs = np.zeros(count, np.float32)
        best_ids, best_logprobs = np.zeros((count, max(most, 0)), np.int32), np.zeros((count, max(most, 0)), np.float32)
        uniforms = sampler.uniforms(batch.seed, batch.position).tolist()
        self._use(batch.banned)
        with guarded():
            for first in range(0, count, self._most):
                members = range(first, min(count, first + self._most))
                for place, (line, found) in enumerate(zip(members, self._look(lines, members, batch), strict=True)):
                    token_ids[line] = self._draw(place, found, batch, line, uniforms[line])
                reported = [line for line in members if batch.alternatives[line] >= 0 and token_ids[line] >= 0]
                for place, (line, found) in enumerate(zip(reported, self._look(lines, reported, None), strict=True)):
                    wanted, token = int(batch.alternatives[line]), int(token_ids[line])
                    logprobs[line], best_ids[line, :wanted], best_logprobs[line, :wanted] = self._logprobs(
                        place, found, lines[line], token, wanted
                    )
        return Sampled(token_ids, logprobs, best_ids, best_logprobs) if most >= 0 else Sampled(token_ids)

    def is_finite(self, line: int) -> bool:
        with guarded():
            self._prepare(np.array([[line, 1, 0, 0, 0, 0, 0, 0]], np.uint32))
            self.gpu.submit(self._adjusting(1))
            return int(np.frombuffer(self.gpu.read(self._found, 4, 4), np.uint32)[0]) == 0

    # on the GPU

    def _look(self, lines: Sequence[int], members: Sequence[int], batch: SamplingBatch | None) -> list[Found]:
        """Processes lines of the batch; without a batch, the unchanged logits."""
        if not len(members):
            return []
        about = np.zeros((len(members), 8), np.uint32)
        about[:, 0] = [lines[line] for line in members]
        about[:, 1] = 1
        longest = 0
        if batch is not None:
            rows = np.asarray(members)
            longest = self._send_adjustments(about, rows, batch)
            heat = np.where(batch.temperature[rows] > 0, batch.temperature[rows], 1)
            about[:, 2] = (np.float32(1) / heat).astype(np.float32).view(np.uint32)
        self._prepare(about)
        count, gpu = len(members), self.gpu
        dispatches = self._adjusting(count)
        if longest:
            dispatches.append((*self._kernels[ADD], -(-longest // 64), count))
        dispatches.append((*self._kernels[SUM_UP], self._blocks, count))
        dispatches.append((*self._kernels[BOUND], count, 1))
        dispatches.append((*self._kernels[COLLECT], -(-self._vocab_size // 64), count))
        gpu.submit(dispatches)
        words = np.frombuffer(gpu.read(self._found, 0, 4 * count * self._found_words), np.uint32)
        return [_found(row) for row in words.reshape(count, -1)]

    def _send_adjustments(self, about: NDArray[np.uint32], members: NDArray[Any], batch: SamplingBatch) -> int:
        """Sends masks and additions; returns the largest number of additions in a line."""
        starts, ends = batch.starts[members], batch.starts[members + 1]
        first, last = int(starts[0]), int(ends[-1])
        about[:, 1] = 0
        about[:, 4], about[:, 5] = starts - first, ends - starts
        for place, row in enumerate(batch.mask_of[members]):
            if row >= 0:
                about[place, 1] = place + 2
                self.gpu.write(self._allowed, 4 * self._words * (place + 2), batch.masks[row] & self._usable)
        if last == first:
            return 0
        pairs = np.stack([batch.ids[first:last].view(np.uint32), batch.values[first:last].view(np.uint32)], -1)
        if len(pairs) * 8 > self._additions.size:
            self._bind(2 * len(pairs))
        self.gpu.write(self._additions, 0, pairs)
        return int((ends - starts).max())

    def _prepare(self, about: NDArray[np.uint32]) -> None:
        """Sends the data for each run: the lines, and that all their logits are finite so far."""
        self.gpu.write(self._line, 0, about)
        for place in range(len(about)):
            self.gpu.write(self._found, 4 * place * self._found_words, np.zeros(HEADER, np.uint32))

    def _adjusting(self, count: int) -> list[tuple[Any, Any, int, int]]:
        return [(pipeline, group, -(-tokens // 64), count) for pipeline, group, tokens in self._adjust]

    def _use(self, banned: NDArray[np.int32]) -> None:
        if banned is self._banned:
            return
        bits = np.ones(32 * self._words, np.uint8)
        bits[banned] = 0
        self._usable = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        self._banned = banned
        with guarded():
            self.gpu.write(self._allowed, 0, self._usable)

    def _bind(self, additions: int = ADDITIONS) -> None:
        gpu, stride = self.gpu, self._stride
        self._additions = gpu.buffer(8 * additions)
        params = gpu.buffer(UNIFORM_SLICE * (len(self._parts) + 4), is_uniform=True)
        shared = {2: self._line, 5: self._adjusted, 6: self._found}
        rank = 0 if self._vocab_size <= MAX_CANDIDATES else min(BEST_BLOCKS, self._blocks)
        rows: list[tuple[str, list[tuple[int, int, int, int]], dict[int, Any]]] = []
        for index, (logits, start, tokens) in enumerate(self._parts):
            written = self._stride - start if index == len(self._parts) - 1 else tokens
            sizes = (stride, self._words, self._found_words, 0)
            first = (-(-tokens // 4) * 4, start, tokens, written)
            rows.append((ADJUST, [first, sizes], {**shared, 3: logits, 4: self._allowed}))
        rows += [
            (ADD, [(stride, 0, 0, 0)], {**shared, 3: self._additions}),
            (SUM_UP, [(stride // 4, self._blocks, 0, 0)], {**shared, 6: self._block}),
            (BOUND, [(self._blocks, self._found_words, rank, 0)], {5: self._block, 6: self._found}),
            (COLLECT, [(stride, self._found_words, self._vocab_size, 0)], shared),
        ]
        self._adjust: list[tuple[Any, Any, int]] = []
        self._kernels: dict[str, tuple[Any, Any]] = {}
        for index, (code, values, places) in enumerate(rows):
            slice_ = np.zeros((UNIFORM_SLICE // 16, 4), np.uint32)
            slice_[: len(values)] = values
            with guarded():
                gpu.write(params, index * UNIFORM_SLICE, slice_)
            group = gpu.bind(code, {1: (params, index * UNIFORM_SLICE, UNIFORM_SLICE), **places})
            pipeline = gpu.compile(code).result()[0]
            if code == ADJUST:
                self._adjust.append((pipeline, group, values[0][3]))
            else:
                self._kernels[code] = pipeline, group

    # from its results

    def _draw(self, place: int, found: Found, batch: SamplingBatch, line: int, uniform: float) -> int:
        self.lines_sampled += 1
        if not found.is_finite:
            return NOT_FINITE
        if found.peak == -np.inf:
            return NO_TOKEN
        if sampler.keeps_all(batch, line, self._vocab_size):
            return self._draw_by_blocks(place, found, float(batch.temperature[line]), uniform)
        if found.candidates is not None:
            token = sampler.draw_among(found.candidates, self._vocab_size, batch, line, uniform)
            if token is not None:
                return token
        self.lines_read += 1
        return sampler.draw_line(self._row(place), batch, line, uniform)

    def _draw_by_blocks(self, place: int, found: Found, temperature: float, uniform: float) -> int:
        size = 16 * self._blocks
        rows = np.frombuffer(self.gpu.read(self._block, place * size, size), np.float32).reshape(-1, 4)
        peaks = (np.where(rows[:, 2] > 0, rows[:, 0], found.peak) - found.peak).astype(np.float64)
        block, rest = sampler.find_share(rows[:, 2].astype(np.float64) * np.exp(peaks / temperature), uniform)
        start = block * BLOCK
        values = self._values(place, start, BLOCK)
        powers = np.exp((values - found.peak).astype(np.float64) / temperature)
        return start + sampler.find_rest(powers, rest)

    def _logprobs(self, place: int, found: Found, line: int, token: int, count: int) -> tuple[float, Any, Any]:
        """The logprob of the sampled token, the best ids, and their logprobs, from the unchanged logits."""
        candidates = found.candidates
        if candidates is None or (len(candidates.ids) < count and candidates.bound > -np.inf):
            self.lines_read += 1
            return sampler.log_probabilities(self._row(place), token, count)
        log_total = float(found.peak) + float(np.log(candidates.total))
        best = np.argsort(-candidates.values, kind="stable")[:count]
        of_token = self._values(place, token, 1)[0] - log_total
        return of_token, candidates.ids[best], candidates.values[best] - np.float32(log_total)

    def _row(self, place: int) -> NDArray[np.float32]:
        return self._values(place, 0, self._vocab_size)

    def _values(self, place: int, first: int, count: int) -> NDArray[np.float32]:
        """Adjusted logits of a line, minus infinity for banned tokens."""
        at = 4 * (place * self._stride + first)
        values = np.frombuffer(self.gpu.read(self._adjusted, at, 4 * count), np.float32).copy()
        values[values <= BANNED] = -np.inf
        return values


def _found(words: NDArray[np.uint32]) -> Found:
    count, is_broken = int(words[0]), bool(words[1])
    values = words[2:5].view(np.float32)
    peak, total, bound = np.where(values > BANNED, values, np.float32(-np.inf))
    candidates = None
    if count <= MAX_CANDIDATES:
        pairs = words[HEADER : HEADER + 2 * count].reshape(-1, 2)
        order = np.argsort(pairs[:, 0])
        ids, values = pairs[order, 0].astype(np.intp), pairs[order, 1].view(np.float32)
        candidates = Candidates(ids, values, bound, peak, float(total))
    return Found(not is_broken, peak, candidates)
