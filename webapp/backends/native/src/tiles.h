// Packed weights, activation panels and the table of kernels that work on them.
//
// A weight matrix is cut into tiles of 16 rows. One 64-byte vector of a tile holds 16 rows x 4 inputs (8 bits),
// x 2 (16 bits) or x 1 (32 bits), so a lane is a row: no sum runs across lanes, activations are broadcast, and one load
// of weights serves up to 8 columns. Everything a tile needs lies in reading order, scales included: a second, short
// stream of scales halves the bandwidth (15 against 33 GB/s on a Zen 4 core).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace roost {

enum Format : int32_t { F32 = 0, BF16 = 1, F16 = 2, Q8 = 3, Q6 = 4, Q4 = 5 };

constexpr int TILE_ROWS = 16;
constexpr int PANEL = 8;       // columns of an activation panel
constexpr int GROUP = 32;      // inputs that share a scale; 64 doubles the KL divergence for 0.25 bits less
constexpr int LOGIT_BLOCK = 64; // logits that share a maximum
constexpr int PAD_INPUTS = 64; // inputs are padded to pairs of groups

inline size_t align_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }
inline bool is_quantised(int format) { return format >= Q8; }

// Layout of a quantised tile: [row scales, 128 bytes, not for Q8], then per pair of groups [64 bytes of group scales]
// [weights of both groups]. Q8: 16 fp16 scales a group. Q6, Q4: 16 u8 scales and 16 u8 minima a group.
inline size_t group_bytes(int format) { return format == Q8 ? 512 : format == Q6 ? 384 : 256; }
inline size_t scale_offset(int format, int group) {
    return (format == Q8 ? 0 : 128) + (size_t)(group / 2) * (64 + 2 * group_bytes(format)) + (size_t)(group % 2) * 32;
}
inline size_t group_offset(int format, int group) {
    return scale_offset(format, group & ~1) + 64 + (size_t)(group % 2) * group_bytes(format);
}

inline size_t wide_step_bytes(int format) { return format == Q8 ? 64 : 32; } // of four inputs and a tile

struct Matrix {
    int format = F32, rows = 0, inputs = 0, padded = 0, tiles = 0;
    size_t tile_bytes = 0;
    uint8_t* data = nullptr;

    // Wide blocks (Q8 and Q4) instead of tiles: [row scales, then row minima, not for Q8], then per group [scales of all
    // rows, for Q4 then minima][for each four inputs the weights of all rows]. A vector of Q4 has a tile in its low
    // nibbles and the next one in its high ones, so that four inputs can be skipped alone.
    int block_tiles = 0, blocks = 0;
    size_t block_bytes = 0;

    const uint8_t* tile(int index) const { return data + (size_t)index * tile_bytes; }
    const uint8_t* block(int index) const { return data + (size_t)index * block_bytes; }
    size_t block_header() const { return format == Q8 ? 0 : (size_t)block_tiles * 128; }
    size_t block_group_bytes() const { return (size_t)block_tiles * (32 + wide_step_bytes(format) * (GROUP / 4)); }
    size_t bytes() const { return blocks ? block_bytes * (size_t)blocks : tile_bytes * (size_t)tiles; }
    // At least `wanted` blocks, unless that makes them narrow: the wider, the more is skipped at a time.
    void make_wide(int wanted) {
        constexpr int FEWEST = 8, MOST = 48;
        const int most = std::max(FEWEST, std::min(MOST, (tiles + wanted - 1) / wanted));
        blocks = (tiles + most - 1) / most;
        block_tiles = (int)align_up((size_t)((tiles + blocks - 1) / blocks), 2);
        make_blocks(block_tiles, (tiles + block_tiles - 1) / block_tiles);
    }
    // False when so many blocks of so many tiles are not what the rows fill.
    bool make_blocks(int64_t of_tiles, int64_t count) {
        if (of_tiles < 2 || of_tiles % 2 || of_tiles > 64 || count != (tiles + of_tiles - 1) / of_tiles) return false;
        block_tiles = (int)of_tiles;
        blocks = (int)count;
        block_bytes = block_header() + (size_t)(padded / GROUP) * block_group_bytes();
        return true;
    }
    void shape(int as_format, int n_rows, int n_inputs) {
        format = as_format;
        rows = n_rows;
        inputs = n_inputs;
        padded = (int)align_up((size_t)n_inputs, PAD_INPUTS);
        tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
        tile_bytes = format == F32 ? (size_t)padded * 64
                   : is_quantised(format) ? scale_offset(format, padded / GROUP)
                                          : (size_t)padded * 32;
    }
};

// Activations of `columns` tokens in panels of up to 8. Panel p, which is width(p) wide:
//   floats: values[p*8*padded + k*width + c]
//   bytes:  bytes[p*8*padded + (k/4)*width*4 + c*4 + k%4], and per group scale, scale * sum and -128 * sum at
//           [p*8*padded/32 + group*width + c]
struct Activations {
    int inputs = 0, padded = 0, columns = 0;
    int8_t* bytes = nullptr;
    float *values = nullptr, *scale = nullptr, *scaled_sum = nullptr;
    int32_t* offset = nullptr;

    int width(int panel) const {
        const int left = columns - panel * PANEL;
        return left < PANEL ? left : PANEL;
    }
    int panels() const { return (columns + PANEL - 1) / PANEL; }
};

enum Function : int { IDENTITY = 0, TANH = 1, SIGMOID = 2, RELU_SQUARED = 3 };

// One head over a run of `tokens` tokens of one sequence; arrays [tokens][size]. The state is [key][value].
struct HeadRun {
    int tokens, size;
    float* state;
    const float* next_state; // of the run that comes after this one, for prefetching, or null
    const float *r, *w, *k, *v;
    const float *removed, *added; // RWKV-7: -kk and kk * a
    const float* bonus;           // RWKV-5 and 6: the factor of this token's own key, [size]
    int w_stride;                 // size, or 0 for a decay that does not depend on the token
    float* out;
};

struct Kernels {
    const char* name;
    void (*tile)(const Matrix&, int tile, const Activations&, int panel, float* out); // out[column * 16 + row]
    void (*put)(Activations&, int column, int first, int count, const float* x);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float* out, int count, float eps);
    void (*lerp)(const float* x, const float* previous, const float* mix, float* out, int count);
    void (*lerp_plus)(const float* x, const float* previous, const float* mix, const float* more, float* out, int count);
    void (*apply)(int function, float* x, int count);
    void (*add)(float* x, const float* y, int count);
    void (*add_gated)(float* x, const float* y, const float* gate, int count); // x += sigmoid(gate) * y
    void (*prepare7)(int size, float* k, float* v, float* w, float* a, const float* value_gate, float* removed,
                     float* added, const float* w0, const float* a0, const float* v0, const float* k_k,
                     const float* k_a, const float* v_first);
    void (*wkv7)(const HeadRun&);
    void (*wkv5)(const HeadRun&); // RWKV-5 and 6
    void (*wkv4)(int tokens, int count, int stride, float* aa, float* bb, float* pp, const float* r, const float* k,
                 const float* v, const float* decay, const float* first, float* out);
    void (*decay6)(float* w, const float* base, int count); // exp(-exp(base + w))
    void (*finish7)(int size, int padded, float* y, const float* r, const float* k, const float* v, const float* g,
                    const float* r_k, const float* weight, const float* bias, float eps);
    void (*finish5)(int size, int padded, float* y, const float* gate, const float* weight, const float* bias,
                    float eps);
    // `count` floats from element `start` on, `stride` apart; false when one is NaN or infinite
    bool (*widen)(int dtype, const void* from, int64_t start, int64_t stride, int count, float* out);
    // rows[16][padded], zero padded. `importance`: of each input, [padded], all above zero; null: all alike
    void (*pack)(Matrix&, int tile, const float* rows, const float* importance);
    // A block of a matrix with wide blocks: out[column * rows of a block + row]. `skips`: inputs that are zero.
    void (*wide)(const Matrix&, int block, const Activations&, int panel, bool skips, float* out);
    void (*place_tile)(const uint8_t* tile, Matrix&, int index); // into a block, which is zero at first
    bool (*scan)(const float* x, int count, float* largest); // the sampler's: largest value, whether all are finite
    void (*maxima)(const float* x, int count, float* out); // of each LOGIT_BLOCK; infinite where one is not finite
    // Sums of exp((x - largest) * factor) of each block; 0 where the maximum says that it is below e^-32 of the largest.
    void (*block_sums)(const float* x, const float* maxima, float largest, float factor, int count, float* out);
    bool (*exponentials)(const float* x, float largest, float factor, int count, float* out);
    int (*at_least)(const float* x, float least, int count, int32_t* positions);
    double (*weight_from)(const float* x, const float* weights, int count, float least); // of x of at least that
    // Packs x in [low, high) and their weights into `xs` and `ws`, which may be the same memory; how many. *above: the
    // weight of larger ones.
    int (*between)(const float* x, const float* weights, int count, float low, float high, float* xs, float* ws,
                   double* above);
    // The weights exp(x - largest): of x of at least `high`, the sum of each block and of all, *above; of all, *total. The
    // positions of x in [low, high), ascending, with room for 16 more than there are; how many.
    int (*weigh_parts)(const float* x, float largest, float low, float high, int count, float* sums, int32_t* positions,
                       double* total, double* above);
    // exp((x - largest) * factor) where x is at least `cut` and exp(x - largest) at least `least`, else 0, into `weights`
    // unless that is null; their sum.
    float (*weigh_kept)(const float* x, float cut, float least, float largest, float factor, int count, float* weights);
    long (*read)(const uint8_t* from, size_t bytes); // reads only: for measuring bandwidth
};

enum Isa : int32_t { PORTABLE = 0, AVX2 = 2, AVX512 = 3 };

const Kernels* portable_kernels();
const Kernels* avx2_kernels();   // null where the compiler or the processor has none
const Kernels* avx512_kernels(); // likewise; needs AVX-512 VNNI

// The kernels of exactly this instruction set, or null when this processor cannot run them.
const Kernels* kernels_for(int isa);
// Empty when the kernels agree with the portable ones on random input, else the name of the first that does not.
const char* self_test(const Kernels& kernels);

} // namespace roost
