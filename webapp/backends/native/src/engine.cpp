// Loading, slots and states of a model; a step is in step.cpp.
#include "engine.h"

#include <cmath>

namespace roost {

namespace {
bool use_sparse_from_environment() { // ROOST_NATIVE_DENSE=1: for measuring what skipping zeros gains
    const char* text = getenv("ROOST_NATIVE_DENSE");
    return text == nullptr || text[0] == '\0' || text[0] == '0';
}
// One packed row into another matrix of the same format and width. A row is one lane of every vector of its tile.
void copy_row(const Matrix& from, int row, Matrix& to, int to_row) {
    const uint8_t* source = from.tile(row / TILE_ROWS);
    uint8_t* target = to.data + (size_t)(to_row / TILE_ROWS) * to.tile_bytes;
    const size_t a = (size_t)(row % TILE_ROWS), b = (size_t)(to_row % TILE_ROWS);
    const auto lane = [&](size_t start, size_t bytes) {
        memcpy(target + start + b * bytes, source + start + a * bytes, bytes);
    };
    if (!is_quantised(from.format)) {
        const size_t item = from.format == F16 ? 2 : 4; // bf16: pairs of inputs
        for (size_t start = 0; start < from.tile_bytes; start += item * TILE_ROWS) lane(start, item);
        return;
    }
    const bool has_rows = from.format != Q8; // row scale and row minimum, then u8 scales and minima
    if (has_rows) lane(0, 4), lane(64, 4);
    for (int g = 0; g < from.padded / GROUP; g++) {
        const size_t scales = scale_offset(from.format, g), weights = group_offset(from.format, g);
        if (has_rows) lane(scales, 1), lane(scales + TILE_ROWS, 1);
        else lane(scales, 2);
        for (size_t start = 0; start < group_bytes(from.format); start += 64) lane(weights + start, 4);
    }
}
} // namespace

Engine::Engine(const Config& config, const Kernels* kernels)
    : config_(config), kernels_(kernels), width_((int)align_up((size_t)config.width, TILE_ROWS)),
      head_((int)align_up((size_t)config.head_size, GROUP)),
      attention_(config.architecture == 40 ? (int)align_up((size_t)config.attention, GROUP) : config.heads * head_),
      use_sparse_(use_sparse_from_environment()), pool_(config.threads) {
    const size_t shifts = (size_t)2 * config.layers * width_;
    state_floats_ = shifts + (size_t)config.layers * attention_ * (config.architecture == 40 ? 3 : head_);
    layers_.resize((size_t)config.layers);
    slots_.resize((size_t)config.max_slots);
    const auto give = [&](Floats& buffer, size_t count) { has_memory_ = has_memory_ && buffer.assign(count); };
    give(initial_state_, state_floats_);
    if (has_memory_) clear_state(initial_state_.data());

    const int columns = config.max_columns;
    const bool bytes = is_quantised(config.format), low_bytes = is_quantised(config.lora_format);
    for (Activations* a : {&r_in_, &k_in_, &ffn_in_, &ffn_r_in_}) allocate(*a, config.width, columns, bytes, !bytes);
    allocate(v_in_, config.width, columns, bytes || low_bytes, !bytes || !low_bytes);
    // g_in_ feeds the gate's matrix in RWKV-5 and 6, its low-rank matrix in 7
    const bool gate_bytes = config.architecture == 70 ? low_bytes : bytes;
    allocate(g_in_, config.width, columns, gate_bytes, !gate_bytes);
    for (Activations* a : {&w_in_, &a_in_, &x_in_}) allocate(*a, config.width, columns, low_bytes, !low_bytes);
    allocate(out_in_, attention_, columns, bytes, !bytes);
    allocate(hidden_in_, config.hidden, columns, bytes, !bytes);
    allocate(head_in_, config.width, columns, is_quantised(config.head_format), !is_quantised(config.head_format));

    for (Floats* buffer : {&x_, &normed_, &last_, &ffn_r_}) give(*buffer, (size_t)columns * width_);
    for (Floats* buffer : {&r_, &k_, &v_, &g_, &v_first_}) give(*buffer, (size_t)columns * attention_);
    logits_stride_ = (int)align_up((size_t)config.vocab, TILE_ROWS);
    scratch_.resize((size_t)config.threads);
    for (Scratch& scratch : scratch_) {
        give(scratch.head, (size_t)9 * HEAD_COLUMNS * std::max(head_, CHANNELS));
        give(scratch.row, (size_t)2 * width_);
        give(scratch.block, (size_t)PANEL * BLOCK_ROWS);
    }
}

void Engine::allocate(Activations& a, int inputs, int columns, bool bytes, bool floats) {
    a.inputs = inputs;
    a.padded = (int)align_up((size_t)inputs, PAD_INPUTS);
    const size_t room = align_up((size_t)columns, PANEL), groups = room * (size_t)(a.padded / GROUP);
    const auto own = [&](size_t size) {
        uint8_t* memory = has_memory_ ? (uint8_t*)allocate_aligned(size) : nullptr;
        if (memory) memset(memory, 0, size);
        has_memory_ = memory != nullptr;
        owned_.emplace_back(memory);
        return memory;
    };
    if (bytes) {
        a.bytes = (int8_t*)own(room * (size_t)a.padded);
        a.scale = (float*)own(groups * sizeof(float));
        a.scaled_sum = (float*)own(groups * sizeof(float));
        a.offset = (int32_t*)own(groups * sizeof(int32_t));
    }
    if (floats) a.values = (float*)own(room * (size_t)a.padded * sizeof(float));
}

// ---------------------------------------------------------------- loading
bool Engine::has_matrix(int layer, int role) const {
    const int a = config_.architecture;
    switch (role) {
    case RECEPTANCE: case KEY: case VALUE: case OUTPUT: case FFN_KEY: case FFN_VALUE: return true;
    case GATE: return a == 51 || a == 52 || a == 60;
    case FFN_RECEPTANCE: return a != 70;
    case DECAY_DOWN: case DECAY_UP: return a >= 60;
    case RATE_DOWN: case RATE_UP: case GATE_DOWN: case GATE_UP: return a == 70;
    case VALUE_DOWN: case VALUE_UP: return a == 70 && layer > 0;
    default: return a == 60 && role < MATRIX_ROLES;
    }
}

bool Engine::has_vector(int layer, int role) const {
    const int a = config_.architecture;
    switch (role) {
    case LNX_WEIGHT: case LNX_BIAS: return a != 40;
    case MIX_W: return a >= 60;
    case MIX_A: case RATE: case KEY_NORM: case KEY_RATE: return a == 70;
    case VALUE_BASE: return a == 70 && layer > 0;
    case MIX_G: return a >= 51;
    case MIX_X: return a == 60;
    case FFN_MIX_R: return a != 70;
    default: return role < VECTOR_ROLES;
    }
}

// Rows and inputs, 0 for a low rank that is the file's to say.
bool Engine::expected_shape(int role, int* rows, int* inputs) const {
    const int width = config_.width, attention = config_.attention;
    switch (role) {
    case RECEPTANCE: case KEY: case VALUE: case GATE: *rows = attention, *inputs = width; break;
    case OUTPUT: *rows = width, *inputs = attention; break;
    case FFN_KEY: *rows = config_.hidden, *inputs = width; break;
    case FFN_VALUE: *rows = width, *inputs = config_.hidden; break;
    case FFN_RECEPTANCE: *rows = width, *inputs = width; break;
    case DECAY_DOWN: case RATE_DOWN: case VALUE_DOWN: case GATE_DOWN: *rows = 0, *inputs = width; break;
    case DECAY_UP: case RATE_UP: case VALUE_UP: case GATE_UP: *rows = attention, *inputs = 0; break;
    default:
        if (role < MIX_DOWN || role >= MATRIX_ROLES) return false;
        *rows = role < MIX_UP ? 0 : width, *inputs = role < MIX_UP ? width : 0;
    }
    return true;
}

int Engine::padded_channel(int channel) const {
    return config_.architecture == 40 || head_ == config_.head_size
               ? channel
               : channel / config_.head_size * head_ + channel % config_.head_size;
}

int Engine::set_matrix(int layer, int role, const Source& source, int rows, int inputs, int first_row, int total_rows,
                       bool is_trial) {
    if (source.dtype < F32 || source.dtype > F16 || rows < 1 || inputs < 1 || !source.data) return BAD_ARGUMENT;
    if (layer < 0) {
        if (role != HEAD_MATRIX && role != EMBEDDING) return BAD_ARGUMENT;
        if (inputs != config_.width || total_rows != config_.vocab || first_row < 0 || first_row % TILE_ROWS ||
            rows > total_rows - first_row)
            return BAD_ARGUMENT;
        int& done = role == EMBEDDING ? embedding_rows_ : head_rows_;
        if (first_row != done) return BAD_ARGUMENT; // pieces come in order
        if (role == EMBEDDING) return set_embedding(source, rows, first_row);
    } else {
        int wanted_rows, wanted_inputs;
        if (layer >= config_.layers || role < 0 || !expected_shape(role, &wanted_rows, &wanted_inputs)) return BAD_ARGUMENT;
        const bool was_tried = calibration_ && calibration_->trial[role];
        if (!has_matrix(layer, role) || (layers_[(size_t)layer].matrix[role].data && !was_tried)) return BAD_ARGUMENT;
        if (is_trial && (!calibration_ || is_lora(role) || was_tried)) return BAD_ARGUMENT;
        if ((wanted_rows && rows != wanted_rows) || (wanted_inputs && inputs != wanted_inputs)) return BAD_ARGUMENT;
        if (first_row != 0 || total_rows != rows || rows > 1 << 20 || inputs > 1 << 20) return BAD_ARGUMENT;
    }
    const bool per_channel = layer >= 0 && is_per_channel(role);
    const bool from_channels = layer >= 0 && role == OUTPUT;
    Matrix& matrix = layer < 0 ? head_matrix_ : layers_[(size_t)layer].matrix[role];
    if (first_row == 0) {
        const int format = layer < 0        ? config_.head_format
                         : is_trial         ? (int)Q8
                         : is_lora(role)    ? config_.lora_format
                                            : config_.format;
        matrix = Matrix();
        matrix.shape(format, per_channel ? attention_ : total_rows, from_channels ? attention_ : inputs);
        if (is_trial) {
        } else if (layer >= 0 && role == FFN_VALUE && (format == Q8 || format == Q4)) {
            matrix.make_wide(pool_.size());
            if (!reserve_block(matrix)) return NO_MEMORY;
        }
        if (is_trial) {
            calibration_->trial[role].reset((uint8_t*)allocate_aligned(matrix.bytes()));
            matrix.data = calibration_->trial[role].get();
        } else matrix.data = arena_.get(matrix.bytes());
        if (!matrix.data) return NO_MEMORY;
    }
    const int packed_rows = per_channel ? attention_ : rows;
    packing_ = {&matrix, source, first_row / TILE_ROWS, rows, inputs, per_channel, from_channels,
                is_trial ? nullptr : importance(layer, role)};
    packing_tiles_.store((packed_rows + TILE_ROWS - 1) / TILE_ROWS);
    packing_status_.store(OK);
    pool_.run(
        [](void* engine, int, uint32_t phase) {
            Engine& e = *(Engine*)engine;
            e.pool_.phase(phase, e.packing_tiles_.load(std::memory_order_relaxed), 1, [&](int unit) {
                const Packing& p = e.packing_;
                const Matrix& m = *p.matrix;
                std::unique_ptr<uint8_t, Free> memory((uint8_t*)allocate_aligned((size_t)m.padded * TILE_ROWS * 8));
                if (!memory) return e.packing_status_.store(NO_MEMORY);
                float *wide = (float*)memory.get(), *row_values = wide + (size_t)m.padded * TILE_ROWS;
                memset(wide, 0, (size_t)m.padded * TILE_ROWS * 4);
                const int size = std::max(e.config_.head_size, 1);
                for (int r = 0; r < TILE_ROWS; r++) {
                    int row = unit * TILE_ROWS + r;
                    if (p.padded_rows && e.attention_ != e.config_.attention && e.config_.architecture != 40) {
                        if (row % e.head_ >= size) continue;
                        row = row / e.head_ * size + row % e.head_;
                    }
                    if (row >= p.rows) continue;
                    float* to = wide + (size_t)r * m.padded;
                    float* values = p.padded_inputs ? row_values : to;
                    if (!e.kernels_->widen(p.source.dtype, p.source.data, (int64_t)row * p.source.row_stride,
                                           p.source.input_stride, p.inputs, values))
                        e.packing_status_.store(NOT_FINITE);
                    if (p.padded_inputs)
                        for (int i = 0; i < p.inputs; i++) to[e.padded_channel(i)] = values[i];
                }
                if (!m.blocks) return e.kernels_->pack(*p.matrix, p.first_tile + unit, wide, p.importance);
                Matrix tile = m; // packed alone, then put into its block
                std::unique_ptr<uint8_t, Free> packed((uint8_t*)allocate_aligned(m.tile_bytes));
                if (!packed) return e.packing_status_.store(NO_MEMORY);
                tile.data = packed.get();
                e.kernels_->pack(tile, 0, wide, p.importance);
                Guard guard(e.placing_); // two tiles share bytes in 4 bits
                e.kernels_->place_tile(packed.get(), *p.matrix, unit);
            });
        },
        this);
    if (layer < 0) head_rows_ = first_row + rows;
    else if (!is_trial && calibration_) calibration_->trial[role].reset();
    return packing_status_.load();
}

// ---------------------------------------------------------------- calibration
int Engine::begin_calibration(int sequences, const int32_t* counts, const int32_t* tokens) {
    if (sequences < 1 || embedding_rows_ != config_.vocab || global_[LN0_WEIGHT].empty() || global_[LN0_BIAS].empty())
        return BAD_ARGUMENT;
    auto made = std::make_unique<Calibration>();
    size_t total = 0;
    for (int i = 0; i < sequences; i++) {
        if (counts[i] < 1 || counts[i] > config_.max_columns) return BAD_ARGUMENT;
        total += (size_t)counts[i];
    }
    for (size_t i = 0; i < total; i++)
        if (tokens[i] < 0 || tokens[i] >= config_.vocab) return BAD_TOKEN;
    made->counts.assign(counts, counts + sequences);
    made->tokens.assign(tokens, tokens + total);
    if (!made->x.assign(total * (size_t)width_) || !made->v_first.assign(total * (size_t)attention_)) return NO_MEMORY;
    std::vector<float> row((size_t)width_);
    for (size_t i = 0; i < total; i++) {
        embed(tokens[i], row.data());
        kernels_->layer_norm(row.data(), global_[LN0_WEIGHT].data(), global_[LN0_BIAS].data(), &made->x[i * (size_t)width_],
                             config_.width, NORM_EPS);
    }
    calibration_ = std::move(made);
    return OK;
}

int Engine::calibrate(int layer) {
    if (!calibration_ || layer != calibration_->layer + 1 || layer > config_.layers) return BAD_ARGUMENT;
    Calibration& c = *calibration_;
    c.layer = layer;
    if (layer == config_.layers) {
        std::vector<float> normed((size_t)width_);
        c.head_squares.assign(align_up((size_t)config_.width, PAD_INPUTS), 0.f);
        for (size_t i = 0; i < c.tokens.size(); i++) {
            kernels_->layer_norm(&c.x[i * (size_t)width_], global_[LN_OUT_WEIGHT].data(), global_[LN_OUT_BIAS].data(),
                                 normed.data(), config_.width, NORM_EPS);
            for (int k = 0; k < config_.width; k++) c.head_squares[(size_t)k] += normed[(size_t)k] * normed[(size_t)k];
        }
        return OK;
    }
    const Layer& l = layers_[(size_t)layer];
    for (int role = 0; role < MATRIX_ROLES; role++) {
        if (has_matrix(layer, role) && !l.matrix[role].data) return INCOMPLETE;
        c.squares[role].assign(has_matrix(layer, role) ? (size_t)l.matrix[role].padded : 0, 0.f);
    }
    for (int role = 0; role < VECTOR_ROLES; role++)
        if (has_vector(layer, role) && l.vector[role].empty()) return INCOMPLETE;
    if (!low_ranks_fit(layer)) return BAD_ARGUMENT;
    if (layer < 2) make_low_ranks(layer);
    if (!has_memory_) return NO_MEMORY;
    gathers_.store(true);
    calibrated_layer_.store(layer);
    size_t at = 0;
    for (const int32_t count : c.counts) {
        const int slot = new_slot();
        if (slot < 0) return slot;
        column_slot_.assign((size_t)count, slot);
        is_first_.assign((size_t)count, 0), is_last_.assign((size_t)count, 0);
        is_first_.front() = is_last_.back() = 1;
        set_columns(count);
        float *x = &c.x[at * (size_t)width_], *v_first = &c.v_first[at * (size_t)attention_];
        memcpy(x_.data(), x, (size_t)count * width_ * sizeof(float));
        memcpy(v_first_.data(), v_first, (size_t)count * attention_ * sizeof(float));
        pool_.run(
            [](void* engine, int thread, uint32_t number) {
                Engine& e = *(Engine*)engine;
                Thread t{thread, number};
                const int which = e.calibrated_layer_.load(std::memory_order_relaxed);
                e.attention(t, which);
                e.feed_forward(t, which);
            },
            this);
        memcpy(x, x_.data(), (size_t)count * width_ * sizeof(float));
        memcpy(v_first, v_first_.data(), (size_t)count * attention_ * sizeof(float));
        free_slot(slot);
        at += (size_t)count;
    }
    gathers_.store(false);
    return OK;
}

void Engine::gather(const Activations& in, std::vector<float>& sums) const {
    for (int panel = 0; panel < in.panels(); panel++) {
        const int width = in.width(panel);
        const size_t base = (size_t)panel * PANEL * (size_t)in.padded, groups = base / GROUP;
        for (int k = 0; k < in.padded; k++)
            for (int c = 0; c < width; c++) {
                const float x = in.bytes ? (float)in.bytes[base + (size_t)(k / 4 * width + c) * 4 + (size_t)(k % 4)] *
                                               in.scale[groups + (size_t)(k / GROUP * width + c)]
                                         : in.values[base + (size_t)(k * width + c)];
                sums[(size_t)k] += x * x;
            }
    }
}

// The mean square of each input over the calibration's tokens, and a part of their mean: what the text has no use for,
// another text may have. Null without a calibration.
const float* Engine::importance(int layer, int role) {
    if (!calibration_) return nullptr;
    const std::vector<float>& squares = layer < 0 ? calibration_->head_squares : calibration_->squares[role];
    if (squares.empty() || (layer >= 0 && (is_lora(role) || layer != calibration_->layer))) return nullptr;
    double sum = 0;
    for (const float value : squares) sum += value;
    const float mean = (float)(sum / (double)squares.size());
    if (!(mean > 0.f && std::isfinite(mean))) return nullptr;
    constexpr float FLOOR = 0.25f;
    calibration_->importance.resize(squares.size());
    for (size_t i = 0; i < squares.size(); i++) calibration_->importance[i] = squares[i] / mean + FLOOR;
    return calibration_->importance.data();
}

// ---------------------------------------------------------------- a whole model in one piece
namespace {
constexpr int64_t MAGIC = 0x3154534146545352, LAYOUT = 1; // "RSTFAST1"; counted on when packed weights change

int64_t checksum_of(const int64_t* words, int64_t count) { // FNV-1a over all but the fifth, which is the sum itself
    uint64_t sum = 0xcbf29ce484222325ull;
    for (int64_t i = 0; i < count; i++)
        if (i != 4) sum = (sum ^ (uint64_t)words[i]) * 0x100000001b3ull;
    return (int64_t)sum;
}
} // namespace

// Walks over everything in one order. Words of the directory: magic, layout, number of words, bytes of all, checksum;
// then of the embedding its dtype and offset; of a vector its length and offset; of a matrix format, rows, inputs, tiles of a block,
// blocks, offset.
void Engine::parts(std::vector<int64_t>& directory, std::vector<Part>& parts) const {
    directory = {MAGIC, LAYOUT, 0, 0, 0};
    int64_t at = 0;
    const auto add = [&](const void* data, size_t bytes) {
        parts.push_back({data, (int64_t)bytes, at});
        directory.push_back(at);
        at += (int64_t)align_up(bytes + 64, 64); // a vector's room behind each
    };
    const auto add_vector = [&](const float* values, size_t count) {
        directory.push_back((int64_t)count);
        add(values, count * sizeof(float));
    };
    const auto add_matrix = [&](const Matrix& m) {
        directory.insert(directory.end(), {m.format, m.rows, m.inputs, m.block_tiles, m.blocks});
        add(m.data, m.bytes());
    };
    directory.push_back(embedding_dtype_);
    add(embedding_, embedding_bytes());
    for (const auto& vector : global_) add_vector(vector.data(), vector.size());
    add_vector(initial_state_.data(), initial_state_.size());
    for (int layer = 0; layer < config_.layers; layer++) {
        const Layer& l = layers_[(size_t)layer];
        for (int role = 0; role < VECTOR_ROLES; role++)
            if (has_vector(layer, role)) add_vector(l.vector[role].data(), l.vector[role].size());
        for (int role = 0; role < MATRIX_ROLES; role++)
            if (has_matrix(layer, role)) add_matrix(l.matrix[role]);
    }
    add_matrix(head_matrix_);
    const int64_t start = (int64_t)align_up(directory.size() * sizeof(int64_t), 4096);
    directory[2] = (int64_t)directory.size();
    directory[3] = start + at;
    directory[4] = checksum_of(directory.data(), (int64_t)directory.size());
    for (Part& part : parts) part.offset += start;
}

// Believes nothing: what it takes over lies inside the memory and has the shapes of this model.
int Engine::adopt(const uint8_t* memory, int64_t bytes) {
    const int64_t* words = (const int64_t*)memory;
    if (!memory || (uintptr_t)memory % 64 || bytes < 4096 || words[0] != MAGIC || words[1] != LAYOUT || words[3] != bytes)
        return BAD_ARGUMENT;
    const int64_t count = words[2], start = (int64_t)align_up((size_t)count * sizeof(int64_t), 4096);
    if (count < 8 || count > bytes / 8 || start > bytes) return BAD_ARGUMENT;
    if (checksum_of(words, count) != words[4]) return BAD_ARGUMENT;
    int64_t next = 5;
    bool is_sound = true;
    const auto word = [&] { return next < count ? words[next++] : (is_sound = false, (int64_t)-1); };
    const auto part = [&](size_t size) -> const uint8_t* {
        const int64_t offset = word(), most = bytes - start - 64;
        is_sound = is_sound && offset >= 0 && offset % 64 == 0 && (int64_t)size <= most && offset <= most - (int64_t)size;
        return is_sound ? memory + start + offset : nullptr;
    };
    const auto vector = [&](size_t size, const auto& take) {
        is_sound = word() == (int64_t)size && is_sound;
        const float* values = (const float*)part(size * sizeof(float));
        is_sound = is_sound && std::all_of(values, values + size, [](float value) { return std::isfinite(value); });
        if (is_sound) take(values, size);
    };
    const auto matrix = [&](int layer, int role, Matrix& m) {
        const int64_t format = word(), rows = word(), inputs = word(), block_tiles = word(), blocks = word();
        is_sound = is_sound && rows >= 1 && rows <= 1 << 22 && inputs >= 1 && inputs <= 1 << 20 && format >= F32 && format <= Q4;
        if (!is_sound) return;
        m.shape((int)format, (int)rows, (int)inputs);
        const bool is_wide = layer >= 0 && role == FFN_VALUE && (format == Q8 || format == Q4);
        is_sound = fits(layer, role, m) && (blocks != 0) == is_wide;
        if (is_wide) is_sound = is_sound && m.make_blocks(block_tiles, blocks);
        m.data = const_cast<uint8_t*>(part(is_sound ? m.bytes() : 0));
        if (is_sound && is_wide) has_memory_ = has_memory_ && reserve_block(m);
    };
    const int64_t dtype = word();
    is_sound = is_sound && dtype >= F32 && dtype <= F16;
    if (!is_sound) return BAD_ARGUMENT;
    embedding_dtype_ = (int)dtype;
    embedding_ = const_cast<uint8_t*>(part(embedding_bytes()));
    for (auto& to : global_) vector((size_t)config_.width, [&](const float* x, size_t n) { to.assign(x, x + n); });
    vector(state_floats_, [&](const float* x, size_t n) { memcpy(initial_state_.data(), x, n * sizeof(float)); });
    for (int layer = 0; layer < config_.layers && is_sound; layer++) {
        Layer& l = layers_[(size_t)layer];
        for (int role = 0; role < VECTOR_ROLES; role++)
            if (has_vector(layer, role))
                vector(vector_room(role), [&](const float* x, size_t n) { l.vector[role].assign(x, x + n); });
        for (int role = 0; role < MATRIX_ROLES; role++)
            if (has_matrix(layer, role)) matrix(layer, role, l.matrix[role]);
    }
    matrix(-1, HEAD_MATRIX, head_matrix_);
    if (!is_sound || next != count) return BAD_ARGUMENT;
    if (!has_memory_) return NO_MEMORY;
    head_rows_ = embedding_rows_ = config_.vocab;
    adopted_bytes_ = (size_t)bytes;
    return OK;
}

bool Engine::fits(int layer, int role, const Matrix& m) const {
    if (layer < 0) return m.format == config_.head_format && m.rows == config_.vocab && m.inputs == config_.width;
    int rows, inputs;
    if (!expected_shape(role, &rows, &inputs)) return false;
    if (is_per_channel(role)) rows = attention_;
    if (role == OUTPUT) inputs = attention_;
    return m.format == (is_lora(role) ? config_.lora_format : config_.format) && (!rows || m.rows == rows) &&
           (!inputs || m.inputs == inputs);
}

bool Engine::reserve_block(const Matrix& matrix) {
    const size_t room = (size_t)PANEL * (size_t)matrix.block_tiles * TILE_ROWS;
    for (Scratch& scratch : scratch_)
        if (scratch.block.size() < room && !scratch.block.assign(room)) return false;
    return true;
}

size_t Engine::embedding_bytes() const {
    const size_t width = (size_t)config_.width, item = embedding_dtype_ == F32 ? 4 : 2;
    return (size_t)config_.vocab * (config_.embedding_q8 ? align_up(width + 4, 4) : width * item);
}

// A head of some rows, so that tokens which may not be drawn cost nothing: their packed rows, lane by lane.
int Engine::set_usable(const int32_t* ids, int count) {
    if (count < 0 || count > config_.vocab || (count && !ids)) return BAD_ARGUMENT;
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= config_.vocab || (i && ids[i] <= ids[i - 1])) return BAD_TOKEN;
    std::vector<int32_t> rows((size_t)(count ? config_.vocab : 0), -1);
    for (int i = 0; i < count; i++) rows[(size_t)ids[i]] = i;
    Matrix made;
    made.shape(head_matrix_.format, count, head_matrix_.inputs);
    std::unique_ptr<uint8_t, Free> memory;
    if (count) {
        memory.reset((uint8_t*)allocate_aligned(made.bytes()));
        if (!memory) return NO_MEMORY;
        memset(memory.get(), 0, made.bytes());
    }
    made.data = memory.get();
    for (int i = 0; i < count; i++)
        copy_row(head_matrix_, ids[i], made, i);
    usable_ids_.assign(ids, ids + count);
    usable_rows_ = std::move(rows);
    usable_memory_ = std::move(memory);
    usable_head_ = made;
    has_usable_logits_ = false;
    return OK;
}

int Engine::set_embedding(const Source& source, int rows, int first_row) {
    const size_t width = (size_t)config_.width, item = source.dtype == F32 ? 4 : 2;
    const size_t row_bytes = config_.embedding_q8 ? align_up(width + 4, 4) : width * item; // a float scale, then bytes
    if (first_row == 0) {
        embedding_dtype_ = source.dtype;
        embedding_ = arena_.get((size_t)config_.vocab * row_bytes);
        if (!embedding_) return NO_MEMORY;
    } else if (embedding_dtype_ != source.dtype) return BAD_ARGUMENT;
    if (!config_.embedding_q8 && source.input_stride != 1) return BAD_ARGUMENT;
    std::vector<float> values(width);
    for (int v = 0; v < rows; v++) {
        const int64_t start = v * source.row_stride;
        if (!kernels_->widen(source.dtype, source.data, start, source.input_stride, config_.width, values.data()))
            return NOT_FINITE;
        uint8_t* to = embedding_ + (size_t)(first_row + v) * row_bytes;
        if (!config_.embedding_q8) {
            memcpy(to, (const uint8_t*)source.data + (size_t)start * item, row_bytes);
            continue;
        }
        float most = 0;
        for (float value : values) most = std::max(most, std::fabs(value));
        const float scale = most / 127.f, inverse = most > 0 ? 127.f / most : 0.f;
        memcpy(to, &scale, 4);
        for (size_t i = 0; i < width; i++) ((int8_t*)to)[4 + i] = (int8_t)std::lrint(values[i] * inverse);
    }
    embedding_rows_ = first_row + rows;
    return OK;
}

void Engine::embed(int token, float* out) const {
    const size_t width = (size_t)config_.width;
    if (!config_.embedding_q8) {
        kernels_->widen(embedding_dtype_, embedding_, (int64_t)token * config_.width, 1, config_.width, out);
        return;
    }
    const uint8_t* row = embedding_ + (size_t)token * align_up(width + 4, 4);
    float scale;
    memcpy(&scale, row, 4);
    for (size_t i = 0; i < width; i++) out[i] = (float)((const int8_t*)row)[4 + i] * scale;
}

int Engine::set_vector(int layer, int role, const float* values, int count) {
    for (int i = 0; i < count; i++)
        if (!std::isfinite(values[i])) return NOT_FINITE;
    if (layer < 0) {
        if (role < 0 || role >= GLOBAL_VECTORS || count != config_.width) return BAD_ARGUMENT;
        global_[role].assign(values, values + count);
        return OK;
    }
    if (layer >= config_.layers || role < 0 || role >= VECTOR_ROLES || !has_vector(layer, role)) return BAD_ARGUMENT;
    const bool per_channel = role_is_channels(role);
    if (count != (per_channel ? config_.attention : config_.width)) return BAD_ARGUMENT;
    std::vector<float>& to = layers_[(size_t)layer].vector[role];
    to.assign(vector_room(role), 0.f);
    for (int i = 0; i < count; i++) to[(size_t)(per_channel ? padded_channel(i) : i)] = values[i];
    return OK;
}

int Engine::set_initial_state(const float* values) {
    if (config_.architecture == 40) return BAD_ARGUMENT;
    const int n = config_.head_size;
    float* to = initial_state_.data() + (size_t)2 * config_.layers * width_;
    for (size_t m = 0; m < (size_t)config_.layers * config_.heads; m++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const float value = values[(m * n + i) * n + j];
                if (!std::isfinite(value)) return NOT_FINITE;
                to[(m * head_ + j) * head_ + i] = value;
            }
    return OK;
}

int Engine::ready() {
    if (head_rows_ != config_.vocab || embedding_rows_ != config_.vocab) return INCOMPLETE;
    for (const auto& vector : global_)
        if (vector.empty()) return INCOMPLETE;
    for (int layer = 0; layer < config_.layers; layer++) {
        const Layer& l = layers_[(size_t)layer];
        for (int role = 0; role < MATRIX_ROLES; role++)
            if (has_matrix(layer, role) && !l.matrix[role].data) return INCOMPLETE;
        for (int role = 0; role < VECTOR_ROLES; role++)
            if (has_vector(layer, role) && l.vector[role].empty()) return INCOMPLETE;
        if (!low_ranks_fit(layer)) return BAD_ARGUMENT;
    }
    for (int layer = 0; layer < std::min(config_.layers, 2); layer++) make_low_ranks(layer);
    calibration_.reset();
    products_ = 0;
    for (const Layer& layer : layers_)
        for (const Matrix& matrix : layer.matrix) products_ += (size_t)matrix.rows * (size_t)matrix.inputs;
    return has_memory_ ? OK : NO_MEMORY;
}

bool Engine::low_ranks_fit(int layer) const {
    const Layer& l = layers_[(size_t)layer];
    for (int down = DECAY_DOWN; down <= GATE_DOWN; down++)
        if (has_matrix(layer, down) && l.matrix[down].rows != l.matrix[down + 4].inputs) return false;
    for (int i = 0; i < 5; i++)
        if (has_matrix(layer, MIX_DOWN) && l.matrix[MIX_DOWN + i].rows != l.matrix[MIX_UP + i].inputs) return false;
    for (int role = DECAY_DOWN; role < MATRIX_ROLES; role++) { // layers share the buffers of their low ranks
        const int other = role == VALUE_DOWN || role == VALUE_UP ? 1 : 0;
        if (has_matrix(layer, role) && l.matrix[role].rows != layers_[(size_t)other].matrix[role].rows) return false;
    }
    return true;
}

// Room for what the low ranks make of the columns; the value's begins with the second layer.
void Engine::make_low_ranks(int layer) {
    const bool bytes = is_quantised(config_.lora_format);
    const Layer& l = layers_[(size_t)layer];
    const auto room = [&](Activations& a, const Matrix& down) {
        if (down.data && !a.inputs) allocate(a, down.rows, config_.max_columns, bytes, !bytes);
    };
    room(decay_low_, l.matrix[DECAY_DOWN]);
    room(rate_low_, l.matrix[RATE_DOWN]);
    room(gate_low_, l.matrix[GATE_DOWN]);
    room(value_low_, l.matrix[VALUE_DOWN]);
    for (int i = 0; i < 5; i++) room(mix_low_[i], l.matrix[MIX_DOWN + i]);
}

size_t Engine::weight_bytes() const {
    size_t bytes = head_matrix_.bytes();
    for (const Layer& layer : layers_)
        for (const Matrix& matrix : layer.matrix) bytes += matrix.bytes();
    return bytes;
}

// ---------------------------------------------------------------- slots and states
void Engine::clear_state(float* state) const {
    std::fill(state, state + state_floats_, 0.f);
    if (config_.architecture != 40) return;
    float* rest = state + (size_t)2 * config_.layers * width_;
    for (int layer = 0; layer < config_.layers; layer++) { // aa, bb, pp
        float* pp = rest + ((size_t)layer * 3 + 2) * attention_;
        std::fill(pp, pp + attention_, -1e30f);
    }
}

int Engine::new_slot() {
    for (size_t i = 0; i < slots_.size(); i++) {
        Slot& slot = slots_[i];
        if (slot.is_used) continue;
        if (!slot.state) slot.state = (float*)states_.get(state_floats_ * sizeof(float));
        if (!slot.state) return NO_MEMORY;
        memcpy(slot.state, initial_state_.data(), state_floats_ * sizeof(float));
        slot.is_used = true;
        return (int)i;
    }
    return NO_SLOT;
}

#define CHECK_SLOT(slot)                                                                                               \
    if ((slot) < 0 || (size_t)(slot) >= slots_.size() || !slots_[(size_t)(slot)].is_used) return NO_SLOT

int Engine::free_slot(int slot) {
    CHECK_SLOT(slot);
    slots_[(size_t)slot].is_used = false;
    return OK;
}

int Engine::copy_slot(int from, int to) {
    CHECK_SLOT(from);
    CHECK_SLOT(to);
    if (from != to) memcpy(slots_[(size_t)to].state, slots_[(size_t)from].state, state_floats_ * sizeof(float));
    return OK;
}

int Engine::save(int slot, float* snapshot) const {
    CHECK_SLOT(slot);
    memcpy(snapshot, slots_[(size_t)slot].state, state_floats_ * sizeof(float));
    return OK;
}

int Engine::restore(int slot, const float* snapshot) {
    CHECK_SLOT(slot);
    memcpy(slots_[(size_t)slot].state, snapshot, state_floats_ * sizeof(float));
    return OK;
}

int Engine::transfer_state(int slot, bool write, float* att_x, float* ffn_x, float* rest) {
    CHECK_SLOT(slot);
    const int layers = config_.layers, n = config_.head_size;
    const size_t width = (size_t)config_.width, matrices_of = (size_t)config_.layers * config_.heads * n * n;
    const size_t rest_count = config_.architecture == 40 ? (size_t)3 * layers * config_.attention : matrices_of;
    if (write) {
        const auto finite = [](const float* values, size_t count) {
            return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
        };
        if (!finite(att_x, layers * width) || !finite(ffn_x, layers * width) || !finite(rest, rest_count))
            return NOT_FINITE;
    }
    const auto copy = [&](float* inside, float* outside, size_t count) {
        if (write) memcpy(inside, outside, count * sizeof(float));
        else memcpy(outside, inside, count * sizeof(float));
    };
    for (int layer = 0; layer < layers; layer++) {
        copy(this->att_x(slot, layer), att_x + layer * width, width);
        copy(this->ffn_x(slot, layer), ffn_x + layer * width, width);
    }
    float* inside = matrices(slot);
    if (config_.architecture == 40) {
        for (int layer = 0; layer < layers; layer++)
            for (int part = 0; part < 3; part++) // outside: all layers' aa, then bb, then pp
                copy(inside + ((size_t)layer * 3 + part) * attention_,
                     rest + ((size_t)part * layers + layer) * config_.attention, (size_t)config_.attention);
        return OK;
    }
    for (size_t m = 0; m < (size_t)layers * config_.heads; m++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) copy(inside + (m * head_ + j) * head_ + i, rest + (m * n + i) * n + j, 1);
    return OK;
}

// ---------------------------------------------------------------- measuring
void Engine::profile(bool on, double* work, double* wait) {
    if (work) memcpy(work, work_, sizeof work_);
    if (wait) memcpy(wait, wait_, sizeof wait_);
    memset(work_, 0, sizeof work_);
    memset(wait_, 0, sizeof wait_);
    profiles_.store(on);
}

// GB/s of reading `bytes` with all threads: what decoding is held against.
double Engine::read_bandwidth(size_t bytes) {
    constexpr size_t UNIT = 65536;
    Arena memory;
    bytes = align_up(std::max(bytes, UNIT), UNIT);
    uint8_t* buffer = memory.get(bytes);
    if (!buffer) return 0;
    memset(buffer, 1, bytes);
    bandwidth_buffer_ = buffer;
    bandwidth_units_.store((int)(bytes / UNIT));
    const double start = seconds_now();
    pool_.run(
        [](void* engine, int, uint32_t phase) {
            Engine& e = *(Engine*)engine;
            e.pool_.phase(phase, e.bandwidth_units_.load(std::memory_order_relaxed), 8, [&](int unit) {
                e.bandwidth_sum_.fetch_add(e.kernels_->read(e.bandwidth_buffer_ + (size_t)unit * UNIT, UNIT));
            });
        },
        this);
    return (double)bytes / (seconds_now() - start) / 1e9;
}

} // namespace roost
