// One loaded model: packed weights, slots with their states, and a step over all running sequences at once.
#pragma once
#include "memory.h"
#include "pool.h"
#include "tiles.h"

#include <atomic>
#include <memory>
#include <vector>

namespace roost {

struct Config {
    int32_t architecture; // 40, 50, 51, 52, 60 or 70
    int32_t layers, width, attention, hidden, heads, head_size, vocab; // heads and head_size are 0 for RWKV-4
    int32_t format, head_format, lora_format; // of the matrices, the head, and the low-rank matrices
    int32_t embedding_q8;                     // 1: rows of bytes with a scale; 0: rows as in the file
    int32_t threads, isa;                     // isa of exactly this level, or -1: the best there is
    int32_t max_slots, max_columns;
};

enum Status : int32_t {
    OK = 0,
    BAD_ARGUMENT = -1,   // a shape, role or pointer that does not fit the model
    NOT_FINITE = -2,     // NaN or infinity among weights or a state
    NO_MEMORY = -3,
    NO_SLOT = -4,        // all slots are taken, or the slot is not in use, or is named twice
    BAD_TOKEN = -5,      // a token id outside the vocabulary
    INCOMPLETE = -6,     // a tensor the model needs was not set
    NO_SUCH_ISA = -7,    // this processor cannot run these kernels
};

// Matrices of a layer. MIX_DOWN and MIX_UP are RWKV-6's five token shifts in the order w k v r g.
enum MatrixRole : int32_t {
    RECEPTANCE, KEY, VALUE, OUTPUT, GATE, FFN_KEY, FFN_VALUE, FFN_RECEPTANCE,
    DECAY_DOWN, RATE_DOWN, VALUE_DOWN, GATE_DOWN, DECAY_UP, RATE_UP, VALUE_UP, GATE_UP,
    MIX_DOWN, MIX_UP = MIX_DOWN + 5, MATRIX_ROLES = MIX_UP + 5
};
enum VectorRole : int32_t {
    LN1_WEIGHT, LN1_BIAS, LN2_WEIGHT, LN2_BIAS, LNX_WEIGHT, LNX_BIAS,
    MIX_R, MIX_W, MIX_K, MIX_V, MIX_A, MIX_G, MIX_X, FFN_MIX_K, FFN_MIX_R,
    DECAY,  // RWKV-4: -exp(time_decay); 5: the factor itself; 6: time_decay; 7: w0
    BONUS,  // RWKV-4: time_first; 5 and 6: the factor; 7: r_k
    RATE,   // RWKV-7: a0
    VALUE_BASE, KEY_NORM, KEY_RATE, // RWKV-7: v0, k_k, k_a
    VECTOR_ROLES
};
enum GlobalVector : int32_t { LN0_WEIGHT, LN0_BIAS, LN_OUT_WEIGHT, LN_OUT_BIAS, GLOBAL_VECTORS };
constexpr int HEAD_MATRIX = 0, EMBEDDING = 1; // "roles" of layer -1

struct Layer {
    Matrix matrix[MATRIX_ROLES];
    std::vector<float> vector[VECTOR_ROLES];
};

// A matrix in the caller's memory; strides in elements.
struct Source {
    const void* data;
    int dtype; // F32, BF16 or F16
    int64_t row_stride, input_stride;
};

constexpr float NORM_EPS = 1e-5f; // of the layer norms, in all of BlinkDL's code

enum Spread : int32_t { NO_JOBS = 0, LARGE_JOBS = 1, ALL_JOBS = 2 }; // over the threads

enum Want : int32_t { NOTHING = 0, LAST = 1, ALL = 2 };

class Engine {
public:
    explicit Engine(const Config& config, const Kernels* kernels);
    void spread(int which) { spread_ = which; }
    bool has_memory() const { return has_memory_; } // false: it may only be deleted

    // Loading. `first_row` > 0 continues a matrix that is given in pieces (multiples of 16 rows; head, embedding only).
    // `is_trial`: 8 bits for calibrate(), in memory that goes when the layer's matrix is set for good.
    int set_matrix(int layer, int role, const Source& source, int rows, int inputs, int first_row, int total_rows,
                   bool is_trial = false);
    int set_vector(int layer, int role, const float* values, int count);
    int set_initial_state(const float* matrices); // [layer][head][value][key], where a fresh slot starts
    // What goes into the matrices on some text, so that scales of few bits are fitted to the inputs that matter. Begins
    // with the embedding and the norms of layer -1 set, sequences of at most max_columns tokens; then layer after layer,
    // set as trials, is run by calibrate(), which is told at the end for `layer` = layers, for the head. Matrices that
    // are set after that are fitted.
    int begin_calibration(int sequences, const int32_t* counts, const int32_t* tokens);
    int calibrate(int layer);
    int ready(); // checks that everything is there

    // A whole model as one piece of memory: `directory`, then parts, each at its offset, a multiple of 64. adopt() takes
    // such a piece in place of all the setting above; it is only read, and has to outlive the engine.
    struct Part {
        const void* data;
        int64_t bytes, offset;
    };
    void parts(std::vector<int64_t>& directory, std::vector<Part>& parts) const;
    int adopt(const uint8_t* memory, int64_t bytes);

    int new_slot();
    int free_slot(int slot);
    int copy_slot(int from, int to);
    int save(int slot, float* snapshot) const; // of state_floats() floats
    int restore(int slot, const float* snapshot);
    size_t state_floats() const { return state_floats_; }
    // States in the house's layout: att_x_prev, ffn_x_prev [layer][width], and matrices [layer][head][value][key], or
    // for RWKV-4 aa, bb, pp, each [layer][attention].
    int transfer_state(int slot, bool write, float* att_x, float* ffn_x, float* rest);

    // Feeds counts[b] tokens to slots[b]; `lines`: how many lines of logits that makes, in the order of the batch. They
    // are computed when they are asked for: all of them, or of the tokens of set_usable() alone.
    int step(int batch, const int32_t* slots, const int32_t* counts, const int32_t* tokens, const int32_t* want, int* lines);
    const float* logits(); // null without memory
    int logits_stride() const { return logits_stride_; }
    const float* maxima(bool of_usable) const; // of each block of each line; null once the logits were given away
    void give_away() { has_maxima_ = false; }  // somebody else may write to them
    int set_usable(const int32_t* ids, int count); // the only tokens that may be drawn, ascending; 0: no such set
    const float* usable_logits(); // null without a set, after a step of several rounds, and without memory
    int usable_stride() const { return head_stride(usable_head_); }
    const std::vector<int32_t>& usable_ids() const { return usable_ids_; }
    const std::vector<int32_t>& usable_rows() const { return usable_rows_; } // by token; -1 for one that is not usable

    const Config& config() const { return config_; }
    const Kernels& kernels() const { return *kernels_; }
    Pool& pool() { return pool_; }
    size_t weight_bytes() const; // read for one token; without embedding and state
    size_t arena_bytes() const { return arena_.bytes() + adopted_bytes_; }
    void profile(bool on, double* work, double* wait);
    double read_bandwidth(size_t bytes);

private:
    using Floats = AlignedVector;

    struct Slot {
        bool is_used = false;
        float* state = nullptr; // kept for the next user of the slot
    };
    struct Scratch {
        Floats head, row, block;
    };
    struct Segment { // rows of one matrix applied to one activation
        enum Target { STORE, ADD, ADD_GATED, TO_PANEL };
        const Matrix* matrix;
        const Activations* input;
        Target target;
        float* to;         // STORE, ADD and ADD_GATED: [column][stride]
        int stride;
        Activations* panel; // TO_PANEL
        int function;
        const float* gate; // ADD_GATED: [column][stride]
    };
    struct Thread {
        int id;
        uint32_t phase;
    };

    float* att_x(int slot, int layer) const { return slots_[(size_t)slot].state + (size_t)layer * width_; }
    float* ffn_x(int slot, int layer) const {
        return slots_[(size_t)slot].state + (size_t)(config_.layers + layer) * width_;
    }
    float* matrices(int slot) const { return slots_[(size_t)slot].state + (size_t)2 * config_.layers * width_; }

    bool is_lora(int role) const { return role >= DECAY_DOWN; }
    static bool is_per_channel(int role) { return role <= VALUE || role == GATE || (role >= DECAY_UP && role <= GATE_UP); }
    size_t vector_room(int role) const { return (size_t)(role_is_channels(role) ? attention_ : width_); }
    static bool role_is_channels(int role) { return role == LNX_WEIGHT || role == LNX_BIAS || role >= DECAY; }
    bool has_matrix(int layer, int role) const;
    bool has_vector(int layer, int role) const;
    bool expected_shape(int role, int* rows, int* inputs) const;
    int padded_channel(int channel) const;
    bool low_ranks_fit(int layer) const;
    bool fits(int layer, int role, const Matrix& matrix) const;
    bool reserve_block(const Matrix& matrix);
    size_t embedding_bytes() const;
    void make_low_ranks(int layer);
    void set_columns(int columns);
    void gather(const Activations& input, std::vector<float>& sums) const;
    const float* importance(int layer, int role);
    void allocate(Activations& a, int inputs, int columns, bool bytes, bool floats);
    int set_embedding(const Source& source, int rows, int first_row);
    void embed(int token, float* out) const;
    void clear_state(float* state) const;

    bool is_alone(size_t products) const { return spread_ == NO_JOBS || (spread_ == LARGE_JOBS && products < SMALL_JOB); }
    void run_round();
    static int head_stride(const Matrix& head) { return head.tiles * TILE_ROWS; } // a line is padded to whole tiles
    bool reserve(AlignedVector& lines, AlignedVector& maxima, size_t count, const Matrix& head);
    void compute_logits(const Matrix& head, float* out, float* maxima);
    static int blocks_of(int count) { return (count + LOGIT_BLOCK - 1) / LOGIT_BLOCK; }
    void round(Thread thread);
    void attention(Thread& t, int layer);
    void feed_forward(Thread& t, int layer);
    void shift(Thread& t, int phase, const float* weight, const float* bias, bool is_ffn, int layer,
               const float* const* mixes, Activations* const* outputs, int count);
    void mix6(Thread& t, int layer);
    void product(Thread& t, int phase, const Segment* segments, int count, int save_ffn_of = -1);
    void product_block(const Segment& segment, int block, float* scratch);
    void wide_product(Thread& t, int phase, const Segment& segment, int save_ffn_of);
    int run_end(int column, int last) const;
    float* matrix(int column, int layer, int head) const;
    void head7(int layer, int head, int thread);
    void head5(int layer, int head, int thread);
    void channels4(int layer, int unit);
    void heads_up(const Matrix& m, const Activations& in, int head, int first, int count, float* out) const;
    void save_shift(bool is_ffn, int layer);
    const float* previous(int column, bool is_ffn, int layer) const;
    template <class Unit> void phase(Thread& t, int name, int total, Unit&& unit);

    static constexpr int HEAD_COLUMNS = 64; // columns handled together inside a head
    static constexpr int BLOCK_ROWS = 32;   // rows of a unit: two tiles, one group of the next product's inputs
    static constexpr int CHANNELS = 64;     // of a unit of RWKV-4's recurrence
    // Multiply-adds that one thread has done before a second is any help: the bundled model's of one token (2.8 million)
    // take it 0.32 ms and two threads 0.47, those of two tokens 0.70 and 0.45 (Zen 3).
    static constexpr size_t SMALL_JOB = 4000000;

    const Config config_;
    const Kernels* const kernels_;
    const int width_;     // config.width padded to 16
    const int head_;      // head size padded to 32
    const int attention_; // channels of the attention, padded
    size_t state_floats_, adopted_bytes_ = 0, products_ = 0; // products_: of one column in all layers
    Arena arena_, states_;
    std::vector<Layer> layers_;
    std::vector<float> global_[GLOBAL_VECTORS];
    Matrix head_matrix_, usable_head_; // the second has the rows of usable_ids_ alone
    std::unique_ptr<uint8_t, Free> usable_memory_;
    std::vector<int32_t> usable_ids_, usable_rows_;
    uint8_t* embedding_ = nullptr;
    int embedding_dtype_ = F32, embedding_rows_ = 0, head_rows_ = 0;
    Floats initial_state_;
    std::vector<Slot> slots_;

    // Activations of a round.
    Activations r_in_, w_in_, k_in_, v_in_, a_in_, g_in_, x_in_, decay_low_, rate_low_, value_low_, gate_low_, mix_low_[5],
        out_in_, ffn_in_, ffn_r_in_, hidden_in_, head_in_;
    std::vector<std::unique_ptr<uint8_t, Free>> owned_;
    Floats x_, normed_, r_, k_, v_, g_, v_first_, ffn_r_, last_, logits_, usable_logits_, maxima_, usable_maxima_;
    int logits_stride_ = 0, lines_ = 0, spread_ = ALL_JOBS;
    bool has_memory_ = true, has_logits_ = false, has_usable_logits_ = false, has_maxima_ = false, is_one_round_ = false;
    const Matrix* logits_head_ = nullptr;
    float *logits_out_ = nullptr, *maxima_out_ = nullptr;
    std::atomic<int> logits_units_{0};
    std::vector<Scratch> scratch_;

    // The round: its columns are tokens, sequence after sequence.
    std::atomic<int> columns_{0}, selected_{0};
    std::vector<int> column_slot_, column_token_, selected_column_;
    std::vector<char> is_first_, is_last_;

    struct Calibration {
        std::vector<int32_t> counts, tokens;
        Floats x, v_first;                       // of all tokens, between the layers
        std::vector<float> squares[MATRIX_ROLES]; // of each input of a matrix, summed over the tokens
        std::vector<float> head_squares, importance;
        std::unique_ptr<uint8_t, Free> trial[MATRIX_ROLES];
        int layer = -1; // whose squares they are
    };
    std::unique_ptr<Calibration> calibration_;
    std::atomic<int> calibrated_layer_{0};
    std::atomic<bool> gathers_{false};

    // The matrix that is being packed.
    struct Packing {
        Matrix* matrix;
        Source source;
        int first_tile, rows, inputs;
        bool padded_rows, padded_inputs;
        const float* importance;
    } packing_{};
    std::atomic<int> packing_tiles_{0}, packing_status_{OK};
    Mutex placing_;

    std::atomic<bool> profiles_{false};
    double work_[16] = {}, wait_[16] = {};
    const uint8_t* bandwidth_buffer_ = nullptr;
    std::atomic<int> bandwidth_units_{0};
    std::atomic<long> bandwidth_sum_{0};
    const bool use_sparse_;

    Pool pool_; // last: its threads end first
};

} // namespace roost
