"""The engine's WGSL: a few kernels that read their sizes from uniforms, so that a model needs about twelve pipelines.

It uses no optional feature of WebGPU, and at most eight storage buffers per stage (the default limit). Activations are
float32. Every kernel has ``run`` (data of this pass) and ``p`` (data of this dispatch) as bindings 0 and 1. Offsets and
strides are in vec4s unless a line says floats.

A sum must not depend on the rest of the batch: tokens of short rows use :func:`matvec`, whose variants for 1 to 8
tokens add in the same order; tokens of long rows use :func:`matmul_tile`.
"""

from __future__ import annotations

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen levels of NF4 (QLoRA, arXiv 2305.14314, appendix E), as web-rwkv and bitsandbytes have them."""

TOKENS_AT_ONCE = (1, 2, 4, 8)
"""Variants of :func:`matvec`: the number of tokens that share one read of the weights."""
ACTIVATIONS = {"none": 0, "tanh": 1, "sigmoid": 2, "relu2": 3, "silu": 4}
EPILOGUES = {"set": 0, "add": 1, "multiply_add": 2}
GROUP_NORM_EPS = "64e-5"

RUN = """
struct Run { tokens: u32, short_tokens: u32, sequences: u32, lines: u32 };
@group(0) @binding(0) var<uniform> run: Run;
@group(0) @binding(1) var<uniform> p: array<vec4<u32>, 16>;
"""

WEIGHTS = {
    "fp32": """
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
fn four(i: u32) -> vec4<f32> { return w[i]; }""",
    "fp16": """
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;
fn four(i: u32) -> vec4<f32> { let b = w[i]; return vec4<f32>(unpack2x16float(b.x), unpack2x16float(b.y)); }""",
    "bf16": """
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;
fn four(i: u32) -> vec4<f32> {
  let b = w[i];
  return bitcast<vec4<f32>>(vec4<u32>(b.x << 16u, b.x & 0xffff0000u, b.y << 16u, b.y & 0xffff0000u));
}""",
    "int8": """
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> q: array<u32>;
fn four(i: u32) -> vec4<f32> {
  let range = unpack2x16float(q[i / 32u]);
  return fma(unpack4x8unorm(w[i]), vec4<f32>(range.y - range.x), vec4<f32>(range.x));
}""",
    "nf4": f"""
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> q: array<u32>;
const LEVELS = array<f32, 16>({", ".join(f"{level:.9f}" for level in NF4)});
var<workgroup> levels: array<f32, 16>;
fn four(i: u32) -> vec4<f32> {{
  let h = w[i / 2u] >> ((i & 1u) * 16u);
  let block = i / 16u;
  let scale = unpack2x16float(q[block / 2u])[block & 1u];
  return scale * vec4<f32>(levels[h & 15u], levels[(h >> 4u) & 15u], levels[(h >> 8u) & 15u], levels[(h >> 12u) & 15u]);
}}""",
}
"""Kind of weights -> WGSL that reads four neighbours. int8: 128 share a minimum and a maximum in fp16; NF4: 64 share
their largest absolute value in fp16."""
FILL_LEVELS = "if (l < 16u) { levels[l] = LEVELS[l]; } workgroupBarrier();"

# p[0]: segments, epilogue, 1 for lines instead of tokens, offset of m.
# p[1 + 2s]: first group of four rows, offset of the weights, inputs / 4, activation.
# p[2 + 2s]: offset and token stride of x, offset and token stride of y. After the last segment: the number of groups.
MATRIX = """
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> m: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;
fn activated(v: vec4<f32>, kind: u32) -> vec4<f32> {
  switch kind {
    case 1u: { return 1.0 - 2.0 / (exp(2.0 * clamp(v, vec4<f32>(-15.0), vec4<f32>(15.0))) + 1.0); }
    case 2u: { return 1.0 / (1.0 + exp(-v)); }
    case 3u: { let z = max(v, vec4<f32>(0.0)); return z * z; }
    case 4u: { return v / (1.0 + exp(-v)); }
    default: { return v; }
  }
}
fn store(t: u32, row4: u32, b: vec4<u32>, v: vec4<f32>) {
  let o = b.z + t * b.w + row4;
  switch p[0].y {
    case 1u: { y[o] = y[o] + v; }
    case 2u: { y[o] = y[o] + v * m[p[0].w + t * b.w + row4]; }
    default: { y[o] = v; }
  }
}
"""


def matvec(kind: str, tokens: int) -> str:
    """Four rows per workgroup; ``tokens`` tokens of short rows (or lines of the head) share one read of the weights."""
    each = range(tokens)
    sums = " ".join(f"let x{t} = b.x + min(t0 + {t}u, n - 1u) * b.y; var s{t} = vec4<f32>(0.0);" for t in each)
    adds = "\n    ".join(
        f"{{ let v = x[x{t} + i]; s{t} += vec4<f32>(dot(w0, v), dot(w1, v), dot(w2, v), dot(w3, v)); }}" for t in each
    )
    return f"""{RUN}{WEIGHTS[kind]}{MATRIX}
var<workgroup> part: array<array<vec4<f32>, 64>, {tokens}>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  {FILL_LEVELS if kind == "nf4" else ""}
  var s = 0u;
  while (s + 1u < p[0].x && g.x >= p[3u + 2u * s].x) {{ s++; }}
  let a = p[1u + 2u * s]; let b = p[2u + 2u * s];
  let n = select(run.short_tokens, run.lines, p[0].z == 1u);
  let row4 = g.x - a.x; let t0 = g.y * {tokens}u; let base = a.y + row4 * 4u * a.z;
  {sums}
  for (var i = l; i < a.z; i += 64u) {{
    let w0 = four(base + i); let w1 = four(base + a.z + i);
    let w2 = four(base + 2u * a.z + i); let w3 = four(base + 3u * a.z + i);
    {adds}
  }}
  {" ".join(f"part[{t}][l] = s{t};" for t in each)}
  workgroupBarrier();
  for (var k = 32u; k > 0u; k >>= 1u) {{
    if (l < k) {{ {" ".join(f"part[{t}][l] += part[{t}][l + k];" for t in each)} }}
    workgroupBarrier();
  }}
  if (l < {tokens}u && t0 + l < n) {{ store(t0 + l, row4, b, activated(part[l][0], a.w)); }}
}}"""


def matmul_tile(kind: str) -> str:
    """For tokens of long rows: 32 x 32 results per workgroup of 8 x 8, 4 x 4 per thread, 32 inputs at a time."""
    return f"""{RUN}{WEIGHTS[kind]}{MATRIX}
var<workgroup> sw: array<vec4<f32>, 256>;
var<workgroup> sx: array<vec4<f32>, 256>;
@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>,
        @builtin(local_invocation_index) l: u32) {{
  {FILL_LEVELS if kind == "nf4" else ""}
  var s = 0u; var tile = g.x;
  loop {{
    let tiles = (p[3u + 2u * s].x - p[1u + 2u * s].x + 7u) / 8u;
    if (tile < tiles || s + 1u >= p[0].x) {{ break; }}
    tile -= tiles; s++;
  }}
  let a = p[1u + 2u * s]; let b = p[2u + 2u * s];
  let rows = (p[3u + 2u * s].x - a.x) * 4u; let first = run.short_tokens + g.y * 32u;
  var sum: mat4x4<f32>;
  for (var k = 0u; k < a.z; k += 8u) {{
    for (var j = at.y; j < 32u; j += 8u) {{
      let i = k + at.x; let row = tile * 32u + j; let t = first + j;
      var from_w = vec4<f32>(0.0); var from_x = vec4<f32>(0.0);
      if (i < a.z && row < rows) {{ from_w = four(a.y + row * a.z + i); }}
      if (i < a.z && t < run.tokens) {{ from_x = x[b.x + t * b.y + i]; }}
      sw[j * 8u + at.x] = from_w; sx[j * 8u + at.x] = from_x;
    }}
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {{
      let r = at.x * 32u + i; let c = at.y * 32u + i;
      sum += transpose(mat4x4<f32>(sw[r], sw[r + 8u], sw[r + 16u], sw[r + 24u]))
           * mat4x4<f32>(sx[c], sx[c + 8u], sx[c + 16u], sx[c + 24u]);
    }}
    workgroupBarrier();
  }}
  let row4 = tile * 8u + at.x;
  for (var j = 0u; j < 4u; j++) {{
    let t = first + at.y * 4u + j;
    if (t < run.tokens && row4 * 4u < rows) {{ store(t, row4, b, activated(sum[j], a.w)); }}
  }}
}}"""


# p[0]: width / 4, 1 to gather lines from tokens.
NORM = f"""{RUN}
@group(0) @binding(2) var<storage, read> weight_bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> line: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
var<workgroup> part: array<f32, 64>;
fn total(l: u32, v: f32) -> f32 {{
  workgroupBarrier(); part[l] = v; workgroupBarrier();
  for (var k = 32u; k > 0u; k >>= 1u) {{ if (l < k) {{ part[l] += part[l + k]; }} workgroupBarrier(); }}
  return part[0];
}}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let n = p[0].x; var source = g.x; var target_line = g.x;
  if (p[0].y == 1u) {{ source = line[g.x].x; target_line = line[g.x].y; }}
  let in_at = source * n; let out_at = target_line * n; let width = f32(n * 4u);
  var s = 0.0;
  for (var i = l; i < n; i += 64u) {{ s += dot(x[in_at + i], vec4<f32>(1.0)); }}
  let mean = total(l, s) / width;
  var v = 0.0;
  for (var i = l; i < n; i += 64u) {{ let z = x[in_at + i] - mean; v += dot(z, z); }}
  let scale = inverseSqrt(total(l, v) / width + 1e-5);
  for (var i = l; i < n; i += 64u) {{
    y[out_at + i] = (x[in_at + i] - mean) * scale * weight_bias[i] + weight_bias[n + i];
  }}
}}"""

# p[0]: width / 4, mixes, stride from one mix's tokens to the next's, 1 to write the difference after them.
# p[1]: stride of a slot, offset in it of the token before.
SHIFT = f"""{RUN}
@group(0) @binding(2) var<storage, read> token: array<u32>;  // slot, and in bit 31 whether it is the first of its row
@group(0) @binding(3) var<storage, read> mix_before: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> state: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  let n = p[0].x; let i = g.x; let t = g.y;
  if (i >= n) {{ return; }}
  let now = x[t * n + i]; let tag = token[t];
  var before: vec4<f32>;
  if ((tag >> 31u) == 1u) {{ before = state[(tag & 0x7fffffffu) * p[1].x + p[1].y + i]; }}
  else {{ before = x[(t - 1u) * n + i]; }}
  let d = before - now;
  for (var k = 0u; k < p[0].y; k++) {{ y[k * p[0].z + t * n + i] = now + d * mix_before[k * n + i]; }}
  if (p[0].w == 1u) {{ y[p[0].y * p[0].z + t * n + i] = d; }}
}}"""

# RWKV-6: y[k] = x + d * (mix[k] + low[k]). p[0]: width / 4, stride of the planes, offset of d in shifted.
SHIFT_6 = f"""{RUN}
@group(0) @binding(2) var<storage, read> mix_before: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> low: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> shifted: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  let n = p[0].x; let i = g.x; let o = g.y * n + i;
  if (i >= n) {{ return; }}
  let d = shifted[p[0].z + o];
  for (var k = 0u; k < 5u; k++) {{
    shifted[k * p[0].y + o] = x[o] + d * (mix_before[k * n + i] + low[k * p[0].y + o]);
  }}
}}"""

# p[0]: width / 4, stride of a slot, offsets in it of the two tokens before.
KEEP = f"""{RUN}
@group(0) @binding(2) var<storage, read> sequence: array<vec4<u32>>;  // first token, tokens, slot
@group(0) @binding(3) var<storage, read> attention_x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> ffn_x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> state: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  let n = p[0].x;
  if (g.x >= n) {{ return; }}
  let s = sequence[g.y]; let in_at = (s.x + s.y - 1u) * n + g.x; let out_at = s.z * p[0].y + g.x;
  state[out_at + p[0].z] = attention_x[in_at];
  state[out_at + p[0].w] = ffn_x[in_at];
}}"""


def _heads(size: int) -> str:
    return f"""{RUN}
const N: u32 = {size}u;
const N4: u32 = {size // 4}u;
@group(0) @binding(2) var<storage, read> sequence: array<vec4<u32>>;  // first token, tokens, slot
@group(0) @binding(3) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read> mid: array<f32>;
@group(0) @binding(5) var<storage, read_write> low: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
var<workgroup> sr: array<vec4<f32>, {size // 4}>;
var<workgroup> sk: array<vec4<f32>, {size // 4}>;
var<workgroup> sw: array<vec4<f32>, {size // 4}>;
var<workgroup> sa: array<vec4<f32>, {size // 4}>;
var<workgroup> sb: array<vec4<f32>, {size // 4}>;
var<workgroup> part: array<f32, {size}>;
fn total(l: u32, v: f32) -> f32 {{
  workgroupBarrier(); part[l] = v; workgroupBarrier();
  for (var k = {1 << (size - 1).bit_length() - 1}u; k > 0u; k >>= 1u) {{
    if (l < k && l + k < N) {{ part[l] += part[l + k]; }}
    workgroupBarrier();
  }}
  return part[0];
}}
"""


# p[0]: attention width, stride of the planes of mid and low (both floats), stride of a slot, offset in it of the heads.
# p[1]: heads, 1 in the first layer.
def attention_7(size: int) -> str:
    """One workgroup per head and sequence, one thread per value channel. mid: r k v; low: w a g v and the first layer's
    v; vectors: w0 a0 v0 k_k k_a r_k, group norm's weight and bias."""
    return f"""{_heads(size)}
fn sigmoid(x: f32) -> f32 {{ return 1.0 / (1.0 + exp(-x)); }}
@compute @workgroup_size({size})
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let C = p[0].x; let plane = p[0].y; let s = sequence[g.y]; let c = g.x * N + l;
  let base = s.z * p[0].z + p[0].w + c * N4;
  var S: array<vec4<f32>, N4>;
  for (var j = 0u; j < N4; j++) {{ S[j] = state[base + j]; }}
  for (var t = s.x; t < s.x + s.y; t++) {{
    let o = t * C + c;
    let r = mid[o]; var k = mid[plane + o]; var v = mid[2u * plane + o];
    let decay = exp(-0.60653066 * sigmoid(vectors[c] + low[o]));
    let a = sigmoid(vectors[C + c] + low[plane + o]);
    if (p[1].y == 1u) {{ low[4u * plane + o] = v; }}
    else {{ v = v + (low[4u * plane + o] - v) * sigmoid(vectors[2u * C + c] + low[3u * plane + o]); }}
    let raw = k * vectors[3u * C + c];
    let kk = raw / max(sqrt(total(l, raw * raw)), 1e-12);
    k = k * (1.0 + (a - 1.0) * vectors[4u * C + c]);
    let bonus = total(l, r * k * vectors[5u * C + c]);
    workgroupBarrier();
    sr[l >> 2u][l & 3u] = r; sk[l >> 2u][l & 3u] = k; sw[l >> 2u][l & 3u] = decay;
    sa[l >> 2u][l & 3u] = -kk; sb[l >> 2u][l & 3u] = kk * a;
    workgroupBarrier();
    var removed = 0.0;
    for (var j = 0u; j < N4; j++) {{ removed += dot(S[j], sa[j]); }}
    var out = 0.0;
    for (var j = 0u; j < N4; j++) {{ S[j] = S[j] * sw[j] + sb[j] * removed + sk[j] * v; out += dot(S[j], sr[j]); }}
    let d = out - total(l, out) / f32(N);
    let scale = inverseSqrt(total(l, d * d) / f32(N) + {GROUP_NORM_EPS});
    y[o] = (d * scale * vectors[6u * C + c] + vectors[7u * C + c] + bonus * v) * low[2u * plane + o];
  }}
  for (var j = 0u; j < N4; j++) {{ state[base + j] = S[j]; }}
}}"""


# p[1]: heads, 1 where the decay depends on the token, 1 with a gate.
def attention_5_6(size: int) -> str:
    """As :func:`attention_7`. mid: r k v g; low: the decay's change by token; vectors: decay (RWKV-6: before the two
    exponentials), bonus, group norm's weight and bias."""
    return f"""{_heads(size)}
@compute @workgroup_size({size})
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {{
  let C = p[0].x; let plane = p[0].y; let s = sequence[g.y]; let c = g.x * N + l;
  let base = s.z * p[0].z + p[0].w + c * N4;
  var S: array<vec4<f32>, N4>;
  for (var j = 0u; j < N4; j++) {{ S[j] = state[base + j]; }}
  sb[l >> 2u][l & 3u] = vectors[C + c];
  for (var t = s.x; t < s.x + s.y; t++) {{
    let o = t * C + c; let v = mid[2u * plane + o];
    var decay = vectors[c];
    if (p[1].y == 1u) {{ decay = exp(-exp(decay + low[o])); }}
    workgroupBarrier();
    sr[l >> 2u][l & 3u] = mid[o]; sk[l >> 2u][l & 3u] = mid[plane + o]; sw[l >> 2u][l & 3u] = decay;
    workgroupBarrier();
    var out = 0.0;
    for (var j = 0u; j < N4; j++) {{
      let kv = sk[j] * v; out += dot(sr[j], sb[j] * kv + S[j]); S[j] = S[j] * sw[j] + kv;
    }}
    let d = out - total(l, out) / f32(N);
    let scale = inverseSqrt(total(l, d * d) / f32(N) + {GROUP_NORM_EPS});
    var normed = d * scale * vectors[2u * C + c] + vectors[3u * C + c];
    if (p[1].z == 1u) {{ normed *= mid[3u * plane + o]; }}
    y[o] = normed;
  }}
  for (var j = 0u; j < N4; j++) {{ state[base + j] = S[j]; }}
}}"""


# One thread a channel. p as above, but stride and offset of the slot in floats; vectors: -exp(decay), bonus.
ATTENTION_4 = f"""{RUN}
@group(0) @binding(2) var<storage, read> sequence: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read> mid: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) g: vec3<u32>) {{
  let C = p[0].x; let plane = p[0].y; let c = g.x;
  if (c >= C) {{ return; }}
  let s = sequence[g.y]; let base = s.z * p[0].z + p[0].w + c;
  var aa = state[base]; var bb = state[base + C]; var pp = state[base + 2u * C];
  let decay = vectors[c]; let bonus = vectors[C + c];
  for (var t = s.x; t < s.x + s.y; t++) {{
    let o = t * C + c; let k = mid[plane + o]; let v = mid[2u * plane + o];
    let now = bonus + k;
    var top = max(pp, now); var old = exp(pp - top); var new_part = exp(now - top);
    y[o] = mid[o] * (old * aa + new_part * v) / (old * bb + new_part);
    let faded = pp + decay;
    top = max(faded, k); old = exp(faded - top); new_part = exp(k - top);
    aa = old * aa + new_part * v; bb = old * bb + new_part; pp = top;
  }}
  state[base] = aa; state[base + C] = bb; state[base + 2u * C] = pp;
}}"""
