// Which kernels this processor can run, and whether they compute what the portable ones do.
#include "memory.h"
#include "tiles.h"

#include <cmath>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace roost {

#if defined(__x86_64__)
// What processor and system can do. Not __builtin_cpu_supports: built with zig it finds nothing.
static bool can_run(int isa) {
    unsigned a, b, c, d, b7, c7, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
    constexpr unsigned FMA = 1u << 12, OSXSAVE = 1u << 27, AVX = 1u << 28, F16C = 1u << 29;
    if ((c & (FMA | OSXSAVE | AVX | F16C)) != (FMA | OSXSAVE | AVX | F16C)) return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); // which registers the system keeps
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return false;
    constexpr unsigned AVX2_BIT = 1u << 5, F = 1u << 16, DQ = 1u << 17, BW = 1u << 30, VL = 1u << 31, VNNI = 1u << 11;
    if (isa == AVX2) return (low & 0x6) == 0x6 && (b7 & AVX2_BIT);
    constexpr unsigned WIDE = AVX2_BIT | F | DQ | BW | VL;
    return isa == AVX512 && (low & 0xe6) == 0xe6 && (b7 & WIDE) == WIDE && (c7 & VNNI);
}
#endif

const Kernels* kernels_for(int isa) {
#if defined(__x86_64__)
    if (isa == AVX512 && can_run(AVX512)) return avx512_kernels();
    if (isa == AVX2 && can_run(AVX2)) return avx2_kernels();
#endif
    return isa == PORTABLE ? portable_kernels() : nullptr;
}

namespace {

struct Random { // xorshift; about normal
    uint64_t state = 88172645463325252ull;
    float next() {
        float sum = 0;
        for (int i = 0; i < 4; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            sum += (float)(state >> 40) * (1.f / 16777216.f) - 0.5f;
        }
        return sum * 1.7f;
    }
    void fill(AlignedVector& to, size_t count) {
        to.assign(count);
        for (size_t i = 0; i < count; i++) to[i] = next();
    }
};

bool agree(const AlignedVector& a, const AlignedVector& b, float tolerance) {
    for (size_t i = 0; i < a.size(); i++)
        if (!(std::fabs(a[i] - b[i]) <= tolerance * (1.f + std::fabs(b[i])))) return false;
    return true;
}

// Tiles packed by the portable code, products of 1 to 8 columns by both.
bool tiles_agree(const Kernels& kernels, const Kernels& portable, int format, Random& random) {
    constexpr int INPUTS = 100, ROWS = 16;
    Matrix m;
    m.shape(format, ROWS, INPUTS);
    AlignedVector packed, rows, x;
    packed.assign(m.bytes() / sizeof(float) + 16);
    m.data = (uint8_t*)packed.data();
    rows.assign((size_t)ROWS * m.padded);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < INPUTS; i++) rows[(size_t)r * m.padded + i] = random.next();
    portable.pack(m, 0, rows.data(), nullptr);
    for (int columns = 1; columns <= PANEL; columns++) {
        AlignedVector results[2], memory[2], groups[2][3];
        for (int side = 0; side < 2; side++) {
            const Kernels& k = side ? kernels : portable;
            Activations a;
            a.inputs = INPUTS, a.padded = m.padded, a.columns = columns;
            memory[side].assign((size_t)PANEL * m.padded);
            if (is_quantised(format)) {
                a.bytes = (int8_t*)memory[side].data();
                for (auto& part : groups[side]) part.assign((size_t)PANEL * m.padded / GROUP);
                a.scale = groups[side][0].data(), a.scaled_sum = groups[side][1].data();
                a.offset = (int32_t*)groups[side][2].data();
            } else a.values = memory[side].data();
            Random same;
            for (int c = 0; c < columns; c++) {
                same.fill(x, INPUTS);
                k.put(a, c, 0, INPUTS, x.data());
            }
            results[side].assign((size_t)columns * TILE_ROWS);
            k.tile(m, 0, a, 0, results[side].data());
        }
        if (!agree(results[1], results[0], 1e-4f)) return false;
    }
    return true;
}

// Blocks of four tiles, inputs of which most are zero, with and without skipping them.
bool wide_agree(const Kernels& kernels, const Kernels& portable, int format, Random& random) {
    constexpr int INPUTS = 128, ROWS = 64;
    Matrix tiles;
    tiles.shape(format, ROWS, INPUTS);
    Matrix wide = tiles;
    wide.make_wide(1);
    AlignedVector packed, blocks, rows, x;
    packed.assign(tiles.bytes() / sizeof(float) + 16);
    blocks.assign(wide.bytes() / sizeof(float) + 16);
    tiles.data = (uint8_t*)packed.data(), wide.data = (uint8_t*)blocks.data();
    rows.assign((size_t)TILE_ROWS * tiles.padded);
    for (int t = 0; t < tiles.tiles; t++) {
        for (size_t i = 0; i < rows.size(); i++) rows[i] = random.next();
        portable.pack(tiles, t, rows.data(), nullptr);
        kernels.place_tile(tiles.tile(t), wide, t);
    }
    for (int columns = 1; columns <= PANEL; columns++) {
        AlignedVector memory, groups[3], results[3];
        Activations a;
        a.inputs = INPUTS, a.padded = tiles.padded, a.columns = columns;
        memory.assign((size_t)PANEL * a.padded);
        for (auto& part : groups) part.assign((size_t)PANEL * a.padded / GROUP);
        a.bytes = (int8_t*)memory.data(), a.scale = groups[0].data(), a.scaled_sum = groups[1].data();
        a.offset = (int32_t*)groups[2].data();
        for (int c = 0; c < columns; c++) {
            random.fill(x, INPUTS);
            for (int i = 0; i < INPUTS; i++)
                if (i / 8 % 3 || (i / 4 + c) % 2) x[(size_t)i] = 0.f;
            kernels.put(a, c, 0, INPUTS, x.data());
        }
        for (auto& result : results) result.assign((size_t)columns * ROWS);
        kernels.wide(wide, 0, a, 0, true, results[0].data());
        kernels.wide(wide, 0, a, 0, false, results[1].data());
        AlignedVector out;
        out.assign((size_t)PANEL * TILE_ROWS);
        for (int t = 0; t < tiles.tiles; t++) {
            kernels.tile(tiles, t, a, 0, out.data());
            for (int c = 0; c < columns; c++)
                memcpy(&results[2][(size_t)c * ROWS + t * TILE_ROWS], &out[(size_t)c * TILE_ROWS], TILE_ROWS * sizeof(float));
        }
        for (int other : {0, 1})
            if (memcmp(results[other].data(), results[2].data(), sizeof(float) * (size_t)columns * ROWS)) return false;
    }
    return true;
}

bool recurrences_agree(const Kernels& kernels, const Kernels& portable, Random& random) {
    constexpr int N = 64, TOKENS = 3;
    AlignedVector input[9];
    for (auto& vector : input) random.fill(vector, (size_t)N * TOKENS);
    for (size_t i = 0; i < input[1].size(); i++) input[1][i] = 0.5f + 0.2f * input[1][i];
    for (int which = 0; which < 3; which++) {
        AlignedVector state[2], out[2];
        for (int side = 0; side < 2; side++) {
            const Kernels& k = side ? kernels : portable;
            Random same;
            same.fill(state[side], (size_t)N * N);
            out[side].assign((size_t)N * TOKENS);
            const HeadRun run{TOKENS, N, state[side].data(), nullptr, input[0].data(), input[1].data(), input[2].data(),
                              input[3].data(), input[4].data(), input[5].data(), input[6].data(), N, out[side].data()};
            if (which == 0) k.wkv7(run);
            else if (which == 1) k.wkv5(run);
            else
                k.wkv4(TOKENS, N, N, state[side].data(), state[side].data() + N, state[side].data() + 2 * N, input[0].data(),
                       input[2].data(), input[3].data(), input[4].data(), input[5].data(), out[side].data());
        }
        if (which == 2) { // bb of a real state is positive; here only the sums can be compared
            out[0].assign(1), out[1].assign(1);
        }
        if (!agree(out[1], out[0], 2e-3f) || !agree(state[1], state[0], 2e-3f)) return false;
    }
    AlignedVector y[2];
    for (int side = 0; side < 2; side++) {
        const Kernels& k = side ? kernels : portable;
        AlignedVector work[6];
        for (int i = 0; i < 6; i++) {
            work[i].assign(N);
            memcpy(work[i].data(), input[i].data(), N * sizeof(float));
        }
        AlignedVector removed, added;
        removed.assign(N), added.assign(N), y[side].assign(N);
        k.prepare7(N, work[0].data(), work[1].data(), work[2].data(), work[3].data(), work[4].data(), removed.data(),
                   added.data(), input[5].data(), input[6].data(), input[7].data(), input[8].data(), input[0].data(),
                   input[1].data());
        k.lerp(work[0].data(), work[1].data(), work[2].data(), y[side].data(), N);
        k.add(y[side].data(), removed.data(), N);
        k.add_gated(y[side].data(), added.data(), work[3].data(), N);
        k.finish7(N, N, y[side].data(), work[0].data(), work[1].data(), work[2].data(), work[3].data(), input[5].data(),
                  input[6].data(), input[7].data(), 64e-5f);
        k.apply(TANH, y[side].data(), N);
        k.finish5(N, N, y[side].data(), work[3].data(), input[6].data(), input[7].data(), 64e-5f);
        k.layer_norm(y[side].data(), input[5].data(), input[6].data(), y[side].data(), N, 1e-5f);
        k.decay6(y[side].data(), input[4].data(), N);
    }
    return agree(y[1], y[0], 2e-3f);
}

} // namespace

const char* self_test(const Kernels& kernels) {
    static const char* const names[] = {"f32 products", "bf16 products", "f16 products", "q8 products", "q6 products", "q4 products"};
    const Kernels& portable = *portable_kernels();
    Random random;
    for (int format = F32; format <= Q4; format++)
        if (!tiles_agree(kernels, portable, format, random)) return names[format];
    for (const int format : {(int)Q8, (int)Q4})
        if (!wide_agree(kernels, portable, format, random)) return "wide blocks";
    if (!recurrences_agree(kernels, portable, random)) return "recurrences";
    return "";
}

} // namespace roost
