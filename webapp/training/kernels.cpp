// Fused CPU kernels for RWKV-7 training: float32, head size 64, GCC/Clang vector extensions.
//
// Everything between the r/w/k/v/a/g projections and the output projection is local to one head, so it is one
// kernel: gates, key normalisation, the wkv recurrence, group norm, bonus and output gate. The backward recomputes
// states from snapshots taken every CHUNK steps. Shapes: B batch, T time, C channels = H heads x N.
#include <torch/extension.h>
#include <ATen/Parallel.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>
using at::Tensor;

constexpr int N = 64, CHUNK = 16;                    // head size; steps between stored states
constexpr float DECAY_SCALE = -0.6065306597126334f;  // -exp(-0.5): w = exp(DECAY_SCALE * sigmoid(.))
constexpr float GROUP_NORM_EPS = 64e-5f;

#ifdef __AVX512F__
constexpr int LANES = 16, GROUP = 4;                 // floats a register; registers worked on together
#else
constexpr int LANES = 8, GROUP = 2;                  // AVX2 has 16 registers: a wider group would spill
#endif
constexpr int BLOCK = LANES * GROUP;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline float lane_sum(vec v) { float s = 0; for (int i = 0; i < LANES; i++) s += v[i]; return s; }
#define UNROLL_GROUP _Pragma("GCC unroll 4") for (int e = 0; e < GROUP; e++)
#define EACH _Pragma("GCC ivdep") for (int i = 0; i < N; i++)

enum { W0, A0, V0, K_K, K_A, R_K, LN_W, LN_B, N_PARAMS };

// All values of one head at one step that depend on no state. A = -kk, B = kk * a.
struct Step {
  alignas(64) float r[N], sig_w[N], decay[N], k[N], k2[N], v[N], v2[N], v_first[N], sig_v[N], a[N], kk[N], A[N], B[N];
  float norm;
};

static inline float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

static inline void prepare(Step& p, const float* P, int C, const float* r, const float* w, const float* k, const float* v,
                           const float* v_first, const float* vx, const float* ax) {
  const float *w0 = P + W0 * C, *a0 = P + A0 * C, *v0 = P + V0 * C, *k_k = P + K_K * C, *k_a = P + K_A * C;
  float squares = 0;
  EACH { float s = sigmoid(w[i] + w0[i]); p.sig_w[i] = s; p.decay[i] = expf(DECAY_SCALE * s); }
  EACH { p.a[i] = sigmoid(ax[i] + a0[i]); }
  EACH { p.r[i] = r[i]; p.k[i] = k[i]; p.v[i] = v[i]; p.kk[i] = k[i] * k_k[i]; squares += p.kk[i] * p.kk[i]; }
  p.norm = std::max(sqrtf(squares), 1e-12f);
  const float inverse = 1.f / p.norm;
  EACH { p.kk[i] *= inverse; p.A[i] = -p.kk[i]; p.B[i] = p.kk[i] * p.a[i]; p.k2[i] = k[i] * (1.f + (p.a[i] - 1.f) * k_a[i]); }
  if (v_first) { EACH { float s = sigmoid(vx[i] + v0[i]); p.sig_v[i] = s; p.v_first[i] = v_first[i]; p.v2[i] = v[i] + (v_first[i] - v[i]) * s; } }
  else EACH p.v2[i] = v[i];
}

static inline void mean_and_rstd(const float* y, float& mean, float& rstd) {
  float sum = 0, squares = 0;
  EACH sum += y[i];
  const float m = sum / N;
  EACH { float d = y[i] - m; squares += d * d; }
  mean = m; rstd = 1.f / sqrtf(squares / N + GROUP_NORM_EPS);
}

static const float* data(const Tensor& t) { return t.defined() && t.numel() ? t.data_ptr<float>() : nullptr; }
static float* out(Tensor& t) { return t.numel() ? t.data_ptr<float>() : nullptr; }

// r,w,k,v,v_first,vx,ax,g: (B,T,C), v_first and vx empty in layer 0; params (8,C); s0 (B,H,N,N) as [value][key].
// Returns output (B,T,C), final state, then what the backward needs: y, S*A per step, state snapshots.
std::vector<Tensor> time_mix_forward(Tensor r, Tensor w, Tensor k, Tensor v, Tensor v_first, Tensor vx, Tensor ax, Tensor g,
                                     Tensor params, Tensor s0) {
  const int B = r.size(0), T = r.size(1), C = r.size(2), H = C / N, n_chunks = (T + CHUNK - 1) / CHUNK;
  auto result = at::empty_like(r), y = at::empty_like(r), sa = at::empty_like(r), s_final = at::empty_like(s0);
  auto snapshots = at::empty({B, H, n_chunks, N, N}, r.options());
  const float *r_ = data(r), *w_ = data(w), *k_ = data(k), *v_ = data(v), *f_ = data(v_first), *x_ = data(vx), *a_ = data(ax),
              *g_ = data(g), *P_ = data(params), *s0_ = data(s0);
  float *o_ = out(result), *y_ = out(y), *sa_ = out(sa), *sT_ = out(s_final), *snap_ = out(snapshots);
  at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
    alignas(64) float S[N * N];  // [key j][value i]
    alignas(64) float carry[N];  // S_{t-1} A_t
    Step steps[2];
    for (int64_t bh = begin; bh < end; bh++) {
      const int b = bh / H, h = bh % H;
      const float* P = P_ + h * N;
      for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) S[j * N + i] = s0_[bh * N * N + i * N + j];
      auto at_step = [&](int t) { return ((int64_t)b * T + t) * C + h * N; };
      auto prepare_step = [&](int t) {
        int64_t q = at_step(t);
        prepare(steps[t & 1], P, C, r_ + q, w_ + q, k_ + q, v_ + q, f_ ? f_ + q : nullptr, x_ ? x_ + q : nullptr, a_ + q);
      };
      prepare_step(0);
      EACH carry[i] = 0;
      for (int j = 0; j < N; j++) { const float aj = steps[0].A[j]; EACH carry[i] += S[j * N + i] * aj; }
      for (int t = 0; t < T; t++) {
        if (t % CHUNK == 0) memcpy(snap_ + (bh * n_chunks + t / CHUNK) * N * N, S, sizeof(S));
        if (t + 1 < T) prepare_step(t + 1);
        const Step &p = steps[t & 1], &next = steps[(t + 1) & 1];
        const int64_t q0 = at_step(t);
        memcpy(sa_ + q0, carry, sizeof(carry));
        for (int i0 = 0; i0 < N; i0 += BLOCK) {
          vec sa_now[GROUP], value[GROUP], read[GROUP] = {}, sa_next[GROUP] = {};
          UNROLL_GROUP { sa_now[e] = load(carry + i0 + e * LANES); value[e] = load(p.v2 + i0 + e * LANES); }
#pragma GCC unroll 2
          for (int j = 0; j < N; j++) {
            const float wj = p.decay[j], bj = p.B[j], kj = p.k2[j], rj = p.r[j], aj = next.A[j];
            UNROLL_GROUP {
              float* cell = S + j * N + i0 + e * LANES;
              vec s = load(cell) * wj + sa_now[e] * bj + value[e] * kj;
              store(cell, s); read[e] += s * rj; sa_next[e] += s * aj;
            }
          }
          UNROLL_GROUP { store(carry + i0 + e * LANES, sa_next[e]); store(y_ + q0 + i0 + e * LANES, read[e]); }
        }
        const float *yp = y_ + q0, *rk = P + R_K * C, *lw = P + LN_W * C, *lb = P + LN_B * C, *gp = g_ + q0;
        float *op = o_ + q0, mean, rstd, bonus = 0;
        mean_and_rstd(yp, mean, rstd);
        EACH bonus += p.r[i] * p.k2[i] * rk[i];
        EACH op[i] = ((yp[i] - mean) * rstd * lw[i] + lb[i] + bonus * p.v2[i]) * gp[i];
      }
      for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) sT_[bh * N * N + i * N + j] = S[j * N + i];
    }
  });
  return {result, s_final, y, sa, snapshots};
}

// Gradients of (r, w, k, v, v_first, vx, ax, g, params, s0). d_state may be empty (no gradient of the final state).
std::vector<Tensor> time_mix_backward(Tensor d_result, Tensor d_state, Tensor r, Tensor w, Tensor k, Tensor v, Tensor v_first, Tensor vx,
                                      Tensor ax, Tensor g, Tensor params, Tensor y, Tensor sa, Tensor snapshots) {
  const int B = r.size(0), T = r.size(1), C = r.size(2), H = C / N, n_chunks = (T + CHUNK - 1) / CHUNK;
  const bool residual = v_first.numel() > 0;
  auto like = [&]() { return at::empty_like(r); };
  Tensor dr = like(), dw = like(), dk = like(), dv = like(), da = like(), dg = like();
  Tensor dvf = residual ? like() : at::empty({0}), dvx = residual ? like() : at::empty({0});
  auto dP = at::zeros({B, N_PARAMS, C}, r.options());
  auto ds0 = at::empty({B, H, N, N}, r.options());
  const float *do_ = data(d_result), *dsT_ = data(d_state), *r_ = data(r), *w_ = data(w), *k_ = data(k), *v_ = data(v), *f_ = data(v_first),
              *x_ = data(vx), *a_ = data(ax), *g_ = data(g), *P_ = data(params), *y_ = data(y), *sa_ = data(sa), *snap_ = data(snapshots);
  float *dr_ = out(dr), *dw_ = out(dw), *dk_ = out(dk), *dv_ = out(dv), *da_ = out(da), *dg_ = out(dg), *dvf_ = out(dvf), *dvx_ = out(dvx),
        *dP_ = out(dP), *ds0_ = out(ds0);
  at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> states_((CHUNK + 1) * N * N);  // [value i][key j] before and after each step of a chunk
    float* states = states_.data();
    alignas(64) float D[N * N];                       // gradient of the state, [value i][key j]
    std::vector<Step> steps(CHUNK);
    for (int64_t bh = begin; bh < end; bh++) {
      const int b = bh / H, h = bh % H;
      const float* P = P_ + h * N;
      const float *k_k = P + K_K * C, *k_a = P + K_A * C, *rk = P + R_K * C, *lw = P + LN_W * C, *lb = P + LN_B * C;
      float* dPp = dP_ + (int64_t)b * N_PARAMS * C + h * N;
      alignas(64) float G[N_PARAMS][N] = {};
      if (dsT_) memcpy(D, dsT_ + bh * N * N, sizeof(D)); else memset(D, 0, sizeof(D));
      for (int c = n_chunks - 1; c >= 0; c--) {
        const int t0 = c * CHUNK, t1 = std::min(T, t0 + CHUNK);
        const float* snapshot = snap_ + (bh * n_chunks + c) * N * N;
        for (int j0 = 0; j0 < N; j0 += 16) for (int i = 0; i < N; i++) for (int j = j0; j < j0 + 16; j++) states[i * N + j] = snapshot[j * N + i];
        for (int t = t0; t < t1; t++) {
          Step& p = steps[t - t0];
          const int64_t q = ((int64_t)b * T + t) * C + h * N;
          prepare(p, P, C, r_ + q, w_ + q, k_ + q, v_ + q, f_ ? f_ + q : nullptr, x_ ? x_ + q : nullptr, a_ + q);
          const float *before = states + (t - t0) * N * N, *s_ = sa_ + q;
          float* after = states + (t - t0 + 1) * N * N;
          for (int j0 = 0; j0 < N; j0 += BLOCK) {
            vec decay[GROUP], bv[GROUP], kv[GROUP];
            UNROLL_GROUP { decay[e] = load(p.decay + j0 + e * LANES); bv[e] = load(p.B + j0 + e * LANES); kv[e] = load(p.k2 + j0 + e * LANES); }
            for (int i = 0; i < N; i++) UNROLL_GROUP {
              const int at = i * N + j0 + e * LANES;
              store(after + at, load(before + at) * decay[e] + bv[e] * s_[i] + kv[e] * p.v2[i]);
            }
          }
        }
        for (int t = t1 - 1; t >= t0; t--) {
          const Step& p = steps[t - t0];
          const int64_t q = ((int64_t)b * T + t) * C + h * N;
          const float *after = states + (t - t0 + 1) * N * N, *before = states + (t - t0) * N * N;
          const float *sap = sa_ + q, *yp = y_ + q, *gp = g_ + q, *dop = do_ + q;
          alignas(64) float dy[N], dz[N], dv2[N], Dr[N], Dk[N], Db[N], Dw[N], Da[N], dsa[N];
          float mean, rstd, bonus = 0, d_bonus = 0, m1 = 0, m2 = 0;
          mean_and_rstd(yp, mean, rstd);
          EACH bonus += p.r[i] * p.k2[i] * rk[i];
          EACH {
            float yn = (yp[i] - mean) * rstd;
            dg_[q + i] = dop[i] * (yn * lw[i] + lb[i] + bonus * p.v2[i]);
            float d = dop[i] * gp[i]; dz[i] = d;
            G[LN_W][i] += d * yn; G[LN_B][i] += d; d_bonus += d * p.v2[i];
            float e = d * lw[i]; m1 += e; m2 += e * yn;
          }
          m1 /= N; m2 /= N;
          EACH dy[i] = rstd * (dz[i] * lw[i] - m1 - (yp[i] - mean) * rstd * m2);
          for (int i = 0; i < N; i++) {  // D += r dy; the two sums over keys
            vec hk = {}, hb = {};
            const float dyi = dy[i];
#pragma GCC unroll 8
            for (int j = 0; j < N; j += LANES) {
              vec d = load(D + i * N + j) + load(p.r + j) * dyi;
              store(D + i * N + j, d);
              hb += d * load(p.B + j); hk += d * load(p.k2 + j);
            }
            dsa[i] = lane_sum(hb); dv2[i] = lane_sum(hk);
          }
          for (int j0 = 0; j0 < N; j0 += BLOCK) {  // the sums over values, and D of the step before
            vec Vr[GROUP] = {}, Vk[GROUP] = {}, Vb[GROUP] = {}, Vw[GROUP] = {}, Va[GROUP] = {};
            for (int i = 0; i < N; i++) {
              const float dyi = dy[i], vi = p.v2[i], si = sap[i], di = dsa[i];
              UNROLL_GROUP {
                const int at = i * N + j0 + e * LANES;
                vec d = load(D + at), s = load(before + at);
                Vr[e] += load(after + at) * dyi; Vk[e] += d * vi; Vb[e] += d * si; Vw[e] += d * s; Va[e] += s * di;
                store(D + at, d * load(p.decay + j0 + e * LANES) + load(p.A + j0 + e * LANES) * di);
              }
            }
            UNROLL_GROUP {
              const int at = j0 + e * LANES;
              store(Dr + at, Vr[e]); store(Dk + at, Vk[e]); store(Db + at, Vb[e]); store(Dw + at, Vw[e]); store(Da + at, Va[e]);
            }
          }
          float dot = 0;
          EACH {
            dr_[q + i] = Dr[i] + d_bonus * p.k2[i] * rk[i]; Dk[i] += d_bonus * p.r[i] * rk[i];
            G[R_K][i] += d_bonus * p.r[i] * p.k2[i]; dv2[i] += dz[i] * bonus;
          }
          EACH { float dkk = -Da[i] + Db[i] * p.a[i]; Da[i] = dkk; dot += dkk * p.kk[i]; }
          const float inverse = 1.f / p.norm;
          EACH {
            float a = p.a[i], d_a = Db[i] * p.kk[i] + Dk[i] * p.k[i] * k_a[i], d0 = (Da[i] - p.kk[i] * dot) * inverse;
            G[K_A][i] += Dk[i] * p.k[i] * (a - 1.f); G[K_K][i] += d0 * p.k[i];
            dk_[q + i] = Dk[i] * (1.f + (a - 1.f) * k_a[i]) + d0 * k_k[i];
            d_a *= a * (1.f - a); da_[q + i] = d_a; G[A0][i] += d_a;
            float d_w = Dw[i] * p.decay[i] * DECAY_SCALE * p.sig_w[i] * (1.f - p.sig_w[i]); dw_[q + i] = d_w; G[W0][i] += d_w;
          }
          if (residual) {
            EACH {
              float s = p.sig_v[i], d = dv2[i] * (p.v_first[i] - p.v[i]) * s * (1.f - s);
              dv_[q + i] = dv2[i] * (1.f - s); dvf_[q + i] = dv2[i] * s; dvx_[q + i] = d; G[V0][i] += d;
            }
          } else EACH dv_[q + i] = dv2[i];
        }
      }
      memcpy(ds0_ + bh * N * N, D, sizeof(D));
      for (int n = 0; n < N_PARAMS; n++) EACH dPp[n * C + i] = G[n][i];
    }
  });
  return {dr, dw, dk, dv, dvf, dvx, da, dg, dP.sum(0), ds0};
}

// Token shift: out[n] = x + (x_prev - x) * mix[n]; x (B,T,C), mix (n,C), before (B,C) the vector before the first.
Tensor shift_forward(Tensor x, Tensor mix, Tensor before) {
  const int B = x.size(0), T = x.size(1), C = x.size(2), n = mix.size(0);
  auto result = at::empty({n, B, T, C}, x.options());
  const int64_t plane = (int64_t)B * T * C;
  const float *x_ = data(x), *m_ = data(mix), *s_ = data(before);
  float* o_ = out(result);
  at::parallel_for(0, B * T, 64, [&](int64_t begin, int64_t end) {
    for (int64_t bt = begin; bt < end; bt++) {
      const float *a = x_ + bt * C, *p = bt % T ? a - C : s_ + bt / T * C;
      for (int q = 0; q < n; q++) {
        float* d = o_ + q * plane + bt * C; const float* m = m_ + q * C;
        _Pragma("GCC ivdep") for (int c = 0; c < C; c++) d[c] = a[c] + (p[c] - a[c]) * m[c];
      }
    }
  });
  return result;
}

std::vector<Tensor> shift_backward(std::vector<Tensor> d, Tensor x, Tensor mix, Tensor before) {
  const int B = x.size(0), T = x.size(1), C = x.size(2), n = mix.size(0);
  auto dx = at::empty_like(x), ds = at::empty_like(before), dm = at::zeros({B, n, C}, x.options());
  const float *x_ = data(x), *m_ = data(mix), *s_ = data(before);
  float *dx_ = out(dx), *ds_ = out(ds), *dm_ = out(dm);
  std::vector<const float*> d_; for (auto& t : d) d_.push_back(data(t));
  at::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      std::vector<float> carry_(C, 0.f); float* carry = carry_.data();
      for (int t = T - 1; t >= 0; t--) {
        const int64_t q = (b * T + t) * C;
        const float *a = x_ + q, *p = t ? a - C : s_ + b * C; float* o = dx_ + q;
        for (int c = 0; c < C; c++) { o[c] = carry[c]; carry[c] = 0; }
        for (int e = 0; e < n; e++) {
          const float *g = d_[e] + q, *m = m_ + e * C; float* gm = dm_ + (b * n + e) * C;
          _Pragma("GCC ivdep") for (int c = 0; c < C; c++) { float z = g[c] * m[c]; o[c] += g[c] - z; carry[c] += z; gm[c] += g[c] * (p[c] - a[c]); }
        }
      }
      for (int c = 0; c < C; c++) ds_[b * C + c] = carry[c];
    }
  });
  return {dx, dm.sum(0), ds};
}

// relu(x)^2 and its derivative 2 relu(x).
Tensor relu2_forward(Tensor x) {
  auto result = at::empty_like(x); const float* a = data(x); float* o = out(result);
  at::parallel_for(0, x.numel(), 8192, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; i++) { float z = a[i] > 0 ? a[i] : 0.f; o[i] = z * z; } });
  return result;
}
Tensor relu2_backward(Tensor d, Tensor x) {
  auto result = at::empty_like(x); const float *a = data(d), *b = data(x); float* o = out(result);
  at::parallel_for(0, x.numel(), 8192, [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; i++) o[i] = 2.f * a[i] * (b[i] > 0 ? b[i] : 0.f); });
  return result;
}

// logits (n,V) become weight * (softmax - onehot); the last column stands for `copies` equal columns. Returns the
// unweighted losses (n).
Tensor cross_entropy_(Tensor logits, Tensor target, Tensor weight, double copies) {
  const int64_t n = logits.size(0), V = logits.size(1);
  auto losses = at::empty({n}, logits.options());
  float *z_ = out(logits), *l_ = out(losses); const float* w_ = data(weight); const int64_t* y_ = target.data_ptr<int64_t>();
  const float extra = copies;
  at::parallel_for(0, n, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float *a = z_ + r * V, top = -1e30f, sum = 0; const int64_t t = y_[r];
      for (int64_t i = 0; i < V; i++) top = a[i] > top ? a[i] : top;
      const float at_target = a[t];
      for (int64_t i = 0; i < V; i++) { float e = expf(a[i] - top); a[i] = e; sum += e; }
      sum += a[V - 1] * (extra - 1.f); a[V - 1] *= extra;
      l_[r] = logf(sum) + top - at_target;
      const float f = w_[r] / sum;
      for (int64_t i = 0; i < V; i++) a[i] *= f;
      a[t] -= w_[r];
    }
  });
  return losses;
}
