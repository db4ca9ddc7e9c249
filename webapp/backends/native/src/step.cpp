// One step: every layer for all columns (tokens) of a round, as phases of the pool.
//
// RWKV-7, a layer: shift - r k v and LoRA down - heads - output - shift - ffn key - ffn value. RWKV-6 computes its five
// shifts in two phases more; 4 to 6 have a receptance beside ffn key, whose sigmoid gates ffn value.
#include "engine.h"

namespace roost {

namespace {
// Names of phases in a profile.
enum { EMBED, SHIFT, MIX, PROJECT, HEADS, OUT, FFN_SHIFT, FFN_UP, FFN_DOWN, LAST_NORM, LOGITS };
constexpr float GROUP_NORM_EPS = 64e-5f; // as in all of BlinkDL's code
} // namespace

int Engine::step(int batch, const int32_t* slots, const int32_t* counts, const int32_t* tokens, const int32_t* want,
                 int* lines_made) {
    if (batch < 1) return BAD_ARGUMENT;
    std::vector<char> seen(slots_.size());
    size_t total = 0, lines = 0;
    for (int b = 0; b < batch; b++) {
        const int slot = slots[b];
        if (slot < 0 || (size_t)slot >= slots_.size() || !slots_[(size_t)slot].is_used || seen[(size_t)slot]) return NO_SLOT;
        if (counts[b] < 1 || want[b] < NOTHING || want[b] > ALL) return BAD_ARGUMENT;
        seen[(size_t)slot] = 1;
        total += (size_t)counts[b];
        lines += want[b] == ALL ? (size_t)counts[b] : want[b] == LAST ? 1 : 0;
    }
    for (size_t i = 0; i < total; i++)
        if (tokens[i] < 0 || tokens[i] >= config_.vocab) return BAD_TOKEN;
    lines_ = (int)lines;
    is_one_round_ = total <= (size_t)config_.max_columns;
    has_logits_ = !is_one_round_;
    has_usable_logits_ = false;
    has_maxima_ = true;
    if (!is_one_round_ && !reserve(logits_, maxima_, lines, head_matrix_)) return NO_MEMORY;

    std::vector<int> position((size_t)batch, 0);
    float *next_line = logits_.data(), *next_maxima = maxima_.data();
    for (int b = 0; b < batch;) { // rounds of at most max_columns tokens
        column_slot_.clear(), column_token_.clear(), is_first_.clear(), is_last_.clear(), selected_column_.clear();
        int left = config_.max_columns;
        while (b < batch && left > 0) {
            int& at = position[(size_t)b];
            const int count = std::min(counts[b] - at, left);
            for (int i = 0; i < count; i++) {
                const bool is_end = at + i + 1 == counts[b];
                if (want[b] == ALL || (want[b] == LAST && is_end)) selected_column_.push_back((int)column_slot_.size());
                column_slot_.push_back(slots[b]);
                column_token_.push_back(tokens[i]);
                is_first_.push_back(i == 0);
                is_last_.push_back(i == count - 1);
            }
            tokens += count;
            at += count;
            left -= count;
            if (at < counts[b]) break;
            b++;
        }
        run_round();
        if (is_one_round_) break;
        compute_logits(head_matrix_, next_line, next_maxima);
        next_line += selected_column_.size() * (size_t)logits_stride_;
        next_maxima += selected_column_.size() * (size_t)blocks_of(config_.vocab);
    }
    *lines_made = lines_;
    return OK;
}

// Room for so many lines of a head and their maxima; false without memory. It grows as needed, and shrinks again after a
// prompt of which every line was wanted.
bool Engine::reserve(AlignedVector& lines, AlignedVector& maxima, size_t count, const Matrix& head) {
    const auto resize = [](AlignedVector& to, size_t size) {
        const bool fits = size <= to.size() && (to.size() <= ((size_t)64 << 20) || size * 4 >= to.size());
        return fits || to.assign(size);
    };
    return resize(lines, count * (size_t)head_stride(head)) && resize(maxima, count * (size_t)blocks_of(head.rows));
}

const float* Engine::logits() {
    if (!has_logits_) {
        if (!reserve(logits_, maxima_, (size_t)lines_, head_matrix_)) return nullptr;
        compute_logits(head_matrix_, logits_.data(), maxima_.data());
        has_logits_ = true;
    }
    return logits_.data();
}

const float* Engine::usable_logits() {
    if (usable_ids_.empty() || !is_one_round_) return nullptr;
    if (!has_usable_logits_) {
        if (!reserve(usable_logits_, usable_maxima_, (size_t)lines_, usable_head_)) return nullptr;
        compute_logits(usable_head_, usable_logits_.data(), usable_maxima_.data());
        has_usable_logits_ = true;
    }
    return usable_logits_.data();
}

const float* Engine::maxima(bool of_usable) const {
    if (of_usable) return usable_maxima_.data(); // nobody else gets at these
    return has_maxima_ ? maxima_.data() : nullptr;
}

// The lines of the round that ran last, one after another, and the largest of each block while it is at hand.
void Engine::compute_logits(const Matrix& head, float* out, float* maxima) {
    constexpr int TILES = LOGIT_BLOCK / TILE_ROWS;
    logits_head_ = &head;
    logits_out_ = out;
    maxima_out_ = maxima;
    logits_units_.store(head_in_.columns ? (head.tiles + TILES - 1) / TILES : 0);
    pool_.run(
        [](void* engine, int thread, uint32_t number) {
            Engine& e = *(Engine*)engine;
            Thread t{thread, number};
            e.phase(t, LOGITS, e.logits_units_.load(std::memory_order_relaxed), [&](int unit) {
                const Matrix& m = *e.logits_head_;
                const int start = unit * LOGIT_BLOCK, length = std::min(LOGIT_BLOCK, m.rows - start);
                float values[PANEL * TILE_ROWS];
                for (int panel = 0; panel < e.head_in_.panels(); panel++) {
                    for (int tile = unit * TILES; tile < std::min(m.tiles, (unit + 1) * TILES); tile++) {
                        e.kernels_->tile(m, tile, e.head_in_, panel, values);
                        for (int c = 0; c < e.head_in_.width(panel); c++)
                            memcpy(e.logits_out_ + (size_t)(panel * PANEL + c) * (size_t)head_stride(m) + (size_t)tile * TILE_ROWS,
                                   values + c * TILE_ROWS, TILE_ROWS * sizeof(float));
                    }
                    for (int c = 0; c < e.head_in_.width(panel); c++) {
                        const size_t line = (size_t)(panel * PANEL + c);
                        e.kernels_->maxima(e.logits_out_ + line * (size_t)head_stride(m) + start, length,
                                           e.maxima_out_ + line * (size_t)blocks_of(m.rows) + unit);
                    }
                }
            });
        },
        this, pool_.was_alone() && is_alone((size_t)head_in_.columns * (size_t)head.rows * (size_t)head.inputs));
}

void Engine::run_round() {
    set_columns((int)column_slot_.size());
    const int selected = (int)selected_column_.size();
    selected_.store(selected);
    head_in_.columns = selected;
    pool_.run([](void* engine, int thread, uint32_t phase) { ((Engine*)engine)->round({thread, phase}); }, this,
              is_alone(column_slot_.size() * products_));
}

void Engine::set_columns(int columns) {
    columns_.store(columns);
    for (Activations* a : {&r_in_, &w_in_, &k_in_, &v_in_, &a_in_, &g_in_, &x_in_, &decay_low_, &rate_low_, &value_low_,
                           &gate_low_, &out_in_, &ffn_in_, &ffn_r_in_, &hidden_in_})
        a->columns = columns;
    for (Activations& a : mix_low_) a.columns = columns;
}

template <class Unit> void Engine::phase(Thread& t, int name, int total, Unit&& unit) {
    const bool timed = t.id == 0 && profiles_.load(std::memory_order_relaxed);
    const int chunk = std::max(1, total / (pool_.size() * 8));
    pool_.phase(t.phase, total, chunk, unit, timed ? &work_[name] : nullptr, timed ? &wait_[name] : nullptr);
}

void Engine::round(Thread t) {
    const int width = config_.width;
    phase(t, EMBED, columns_.load(std::memory_order_relaxed), [&](int c) {
        float* row = scratch_[(size_t)t.id].row.data();
        embed(column_token_[(size_t)c], row);
        kernels_->layer_norm(row, global_[LN0_WEIGHT].data(), global_[LN0_BIAS].data(), &x_[(size_t)c * width_], width,
                             NORM_EPS);
    });
    for (int layer = 0; layer < config_.layers; layer++) {
        attention(t, layer);
        feed_forward(t, layer);
    }
    const int selected = selected_.load(std::memory_order_relaxed);
    phase(t, LAST_NORM, selected, [&](int i) {
        float* normed = &last_[(size_t)i * width_];
        kernels_->layer_norm(&x_[(size_t)selected_column_[(size_t)i] * width_], global_[LN_OUT_WEIGHT].data(),
                             global_[LN_OUT_BIAS].data(), normed, width, NORM_EPS);
        kernels_->put(head_in_, i, 0, width, normed);
    });
}

void Engine::attention(Thread& t, int layer) {
    const Layer& l = layers_[(size_t)layer];
    const int architecture = config_.architecture;
    const auto mix = [&](int role) { return l.vector[role].data(); };
    const auto store = [&](int role, const Activations& in, Floats& to) {
        return Segment{&l.matrix[role], &in, Segment::STORE, to.data(), attention_, nullptr, IDENTITY, nullptr};
    };
    const auto down = [&](int role, const Activations& in, Activations& to, int function) {
        return Segment{&l.matrix[role], &in, Segment::TO_PANEL, nullptr, 0, &to, function, nullptr};
    };

    Segment segments[8] = {store(RECEPTANCE, r_in_, r_), store(KEY, k_in_, k_), store(VALUE, v_in_, v_)};
    int count = 3;
    if (architecture == 70) {
        const float* mixes[] = {mix(MIX_R), mix(MIX_W), mix(MIX_K), mix(MIX_V), mix(MIX_A), mix(MIX_G)};
        Activations* outputs[] = {&r_in_, &w_in_, &k_in_, &v_in_, &a_in_, &g_in_};
        shift(t, SHIFT, l.vector[LN1_WEIGHT].data(), l.vector[LN1_BIAS].data(), false, layer, mixes, outputs, 6);
        segments[count++] = down(DECAY_DOWN, w_in_, decay_low_, TANH);
        segments[count++] = down(RATE_DOWN, a_in_, rate_low_, IDENTITY);
        segments[count++] = down(GATE_DOWN, g_in_, gate_low_, SIGMOID);
        if (layer > 0) segments[count++] = down(VALUE_DOWN, v_in_, value_low_, IDENTITY);
    } else if (architecture == 60) {
        const float* mixes[] = {mix(MIX_X)};
        Activations* outputs[] = {&x_in_};
        shift(t, SHIFT, l.vector[LN1_WEIGHT].data(), l.vector[LN1_BIAS].data(), false, layer, mixes, outputs, 1);
        mix6(t, layer);
        segments[count++] = store(GATE, g_in_, g_);
        segments[count++] = down(DECAY_DOWN, w_in_, decay_low_, TANH);
    } else {
        const float* mixes[] = {mix(MIX_R), mix(MIX_K), mix(MIX_V), mix(MIX_G)};
        Activations* outputs[] = {&r_in_, &k_in_, &v_in_, &g_in_};
        const bool has_gate = has_matrix(layer, GATE);
        shift(t, SHIFT, l.vector[LN1_WEIGHT].data(), l.vector[LN1_BIAS].data(), false, layer, mixes, outputs,
              has_gate ? 4 : 3);
        if (has_gate) segments[count++] = store(GATE, g_in_, g_);
    }
    product(t, PROJECT, segments, count);

    const int units = architecture == 40 ? (attention_ + CHANNELS - 1) / CHANNELS : config_.heads;
    phase(t, HEADS, units + 1, [&](int unit) {
        if (unit == units) save_shift(false, layer);
        else if (architecture == 40) channels4(layer, unit);
        else if (architecture == 70) head7(layer, unit, t.id);
        else head5(layer, unit, t.id);
    });
    const Segment output{&l.matrix[OUTPUT], &out_in_, Segment::ADD, x_.data(), width_, nullptr, IDENTITY, nullptr};
    product(t, OUT, &output, 1);
}

void Engine::feed_forward(Thread& t, int layer) {
    const Layer& l = layers_[(size_t)layer];
    const float* mixes[] = {l.vector[FFN_MIX_K].data(), l.vector[FFN_MIX_R].data()};
    Activations* outputs[] = {&ffn_in_, &ffn_r_in_};
    const bool has_gate = config_.architecture != 70;
    shift(t, FFN_SHIFT, l.vector[LN2_WEIGHT].data(), l.vector[LN2_BIAS].data(), true, layer, mixes, outputs,
          has_gate ? 2 : 1);
    const Segment up[2] = {
        {&l.matrix[FFN_KEY], &ffn_in_, Segment::TO_PANEL, nullptr, 0, &hidden_in_, RELU_SQUARED, nullptr},
        {&l.matrix[FFN_RECEPTANCE], &ffn_r_in_, Segment::STORE, ffn_r_.data(), width_, nullptr, IDENTITY, nullptr},
    };
    product(t, FFN_UP, up, has_gate ? 2 : 1);
    const Segment down{&l.matrix[FFN_VALUE], &hidden_in_, has_gate ? Segment::ADD_GATED : Segment::ADD, x_.data(), width_,
                       nullptr, IDENTITY, ffn_r_.data()};
    if (down.matrix->blocks) wide_product(t, FFN_DOWN, down, layer); // and the shifted input, which nobody reads any more
    else product(t, FFN_DOWN, &down, 1, layer);
}

// What a column's token shift looks back to: the column before, or the state.
const float* Engine::previous(int column, bool is_ffn, int layer) const {
    if (!is_first_[(size_t)column]) return &normed_[(size_t)(column - 1) * width_];
    const int slot = column_slot_[(size_t)column];
    return is_ffn ? ffn_x(slot, layer) : att_x(slot, layer);
}

void Engine::save_shift(bool is_ffn, int layer) {
    for (size_t c = 0; c < column_slot_.size(); c++) {
        if (!is_last_[c]) continue;
        float* to = is_ffn ? ffn_x(column_slot_[c], layer) : att_x(column_slot_[c], layer);
        memcpy(to, &normed_[c * (size_t)width_], (size_t)config_.width * sizeof(float));
    }
}

// Layer norm, token shift and the inputs of the products: two phases, of which one is empty.
void Engine::shift(Thread& t, int name, const float* weight, const float* bias, bool is_ffn, int layer,
                   const float* const* mixes, Activations* const* outputs, int count) {
    const int columns = columns_.load(std::memory_order_relaxed), width = config_.width;
    const bool is_one = columns == 1;
    const int groups = (width + GROUP - 1) / GROUP, ranges = std::min(pool_.size(), groups);
    Scratch& scratch = scratch_[(size_t)t.id];
    // One column: every unit normalises for itself, then takes a range of the inputs.
    phase(t, name, is_one ? ranges : columns, [&](int unit) {
        if (!is_one) {
            kernels_->layer_norm(&x_[(size_t)unit * width_], weight, bias, &normed_[(size_t)unit * width_], width, NORM_EPS);
            return;
        }
        float *normed = unit == 0 ? normed_.data() : scratch.row.data(), *mixed = scratch.row.data() + width_;
        kernels_->layer_norm(x_.data(), weight, bias, normed, width, NORM_EPS);
        const int start = groups * unit / ranges * GROUP, end = std::min(width, groups * (unit + 1) / ranges * GROUP);
        const float* before = previous(0, is_ffn, layer);
        for (int i = 0; i < count; i++) {
            kernels_->lerp(normed + start, before + start, mixes[i] + start, mixed, end - start);
            kernels_->put(*outputs[i], 0, start, end - start, mixed);
        }
    });
    const int panels = (columns + PANEL - 1) / PANEL;
    phase(t, name, is_one ? 0 : panels * count, [&](int unit) {
        const int panel = unit / count, i = unit % count;
        for (int c = panel * PANEL; c < std::min(columns, (panel + 1) * PANEL); c++) {
            kernels_->lerp(&normed_[(size_t)c * width_], previous(c, is_ffn, layer), mixes[i], scratch.row.data(), width);
            kernels_->put(*outputs[i], c, 0, width, scratch.row.data());
        }
    });
}

// RWKV-6's shifts: how much of the token before each input takes depends on the token, through low-rank matrices.
void Engine::mix6(Thread& t, int layer) {
    const Layer& l = layers_[(size_t)layer];
    Segment down[5];
    for (int i = 0; i < 5; i++)
        down[i] = {&l.matrix[MIX_DOWN + i], &x_in_, Segment::TO_PANEL, nullptr, 0, &mix_low_[i], TANH, nullptr};
    product(t, MIX, down, 5);

    static constexpr int MIXES[5] = {MIX_W, MIX_K, MIX_V, MIX_R, MIX_G};
    Activations* const outputs[5] = {&w_in_, &k_in_, &v_in_, &r_in_, &g_in_};
    const int width = config_.width, blocks = (width + BLOCK_ROWS - 1) / BLOCK_ROWS;
    phase(t, MIX, 5 * blocks, [&](int unit) {
        const int i = unit / blocks, first = unit % blocks * BLOCK_ROWS, rows = std::min(BLOCK_ROWS, width - first);
        const Matrix& m = l.matrix[MIX_UP + i];
        float out[PANEL * TILE_ROWS], *more = scratch_[(size_t)t.id].block.data(), mixed[BLOCK_ROWS];
        for (int panel = 0; panel < mix_low_[i].panels(); panel++) {
            const int columns = mix_low_[i].width(panel);
            for (int tile = first / TILE_ROWS; tile < std::min(m.tiles, (first + BLOCK_ROWS) / TILE_ROWS); tile++) {
                kernels_->tile(m, tile, mix_low_[i], panel, out);
                for (int c = 0; c < columns; c++)
                    memcpy(more + c * BLOCK_ROWS + tile * TILE_ROWS - first, out + c * TILE_ROWS, sizeof(float) * TILE_ROWS);
            }
            for (int c = 0; c < columns; c++) {
                const int column = panel * PANEL + c;
                kernels_->lerp_plus(&normed_[(size_t)column * width_ + first], previous(column, false, layer) + first,
                                    l.vector[MIXES[i]].data() + first, more + c * BLOCK_ROWS, mixed, rows);
                kernels_->put(*outputs[i], column, first, rows, mixed);
            }
        }
    });
}

// Products of several matrices in one phase; a unit is 32 rows of one of them, all columns. `save_ffn_of`: a layer whose
// ffn shift is saved by one unit more.
void Engine::product(Thread& t, int name, const Segment* segments, int count, int save_ffn_of) {
    int start[16], total = 0;
    for (int i = 0; i < count; i++) {
        start[i] = total;
        total += (segments[i].matrix->tiles * TILE_ROWS + BLOCK_ROWS - 1) / BLOCK_ROWS;
    }
    phase(t, name, total + (save_ffn_of >= 0), [&](int unit) {
        if (unit == total) return save_shift(true, save_ffn_of);
        int s = count - 1;
        while (start[s] > unit) s--;
        if (unit == start[s] && gathers_.load(std::memory_order_relaxed)) {
            const Layer& l = layers_[(size_t)calibrated_layer_.load(std::memory_order_relaxed)];
            gather(*segments[s].input, calibration_->squares[segments[s].matrix - l.matrix]);
        }
        product_block(segments[s], unit - start[s], scratch_[(size_t)t.id].block.data());
    });
}

void Engine::product_block(const Segment& segment, int block, float* scratch) {
    const Matrix& m = *segment.matrix;
    const int first = block * BLOCK_ROWS, rows = std::min(BLOCK_ROWS, m.rows - first);
    float out[PANEL * TILE_ROWS];
    for (int panel = 0; panel < segment.input->panels(); panel++) {
        const int columns = segment.input->width(panel);
        for (int tile = first / TILE_ROWS; tile < std::min(m.tiles, (first + BLOCK_ROWS) / TILE_ROWS); tile++) {
            kernels_->tile(m, tile, *segment.input, panel, out);
            for (int c = 0; c < columns; c++)
                memcpy(scratch + c * BLOCK_ROWS + tile * TILE_ROWS - first, out + c * TILE_ROWS, sizeof(float) * TILE_ROWS);
        }
        for (int c = 0; c < columns; c++) {
            float* values = scratch + c * BLOCK_ROWS;
            const int column = panel * PANEL + c;
            const size_t at = (size_t)column * segment.stride + first;
            switch (segment.target) {
            case Segment::STORE: memcpy(segment.to + at, values, (size_t)rows * sizeof(float)); break;
            case Segment::ADD: kernels_->add(segment.to + at, values, rows); break;
            case Segment::ADD_GATED: kernels_->add_gated(segment.to + at, values, segment.gate + at, rows); break;
            case Segment::TO_PANEL:
                kernels_->apply(segment.function, values, (int)align_up((size_t)rows, TILE_ROWS));
                kernels_->put(*segment.panel, column, first, rows, values);
            }
        }
    }
}

// Products with a matrix of wide blocks, added to the residual; a unit is a block and a panel of columns.
void Engine::wide_product(Thread& t, int name, const Segment& segment, int save_ffn_of) {
    const Matrix& m = *segment.matrix;
    const int panels = (columns_.load(std::memory_order_relaxed) + PANEL - 1) / PANEL, total = m.blocks * panels;
    phase(t, name, total + 1, [&](int unit) {
        if (unit == total) return save_shift(true, save_ffn_of);
        const int panel = unit / m.blocks, first = unit % m.blocks * m.block_tiles * TILE_ROWS;
        const int width = m.block_tiles * TILE_ROWS, rows = std::min(width, m.rows - first);
        float* out = scratch_[(size_t)t.id].block.data();
        kernels_->wide(m, unit % m.blocks, *segment.input, panel, use_sparse_, out);
        for (int c = 0; c < segment.input->width(panel); c++, out += width) {
            const size_t at = (size_t)(panel * PANEL + c) * segment.stride + first;
            if (segment.target == Segment::ADD) kernels_->add(segment.to + at, out, rows);
            else kernels_->add_gated(segment.to + at, out, segment.gate + at, rows);
        }
    });
}

// Rows of one head for columns first .. first + count (first a multiple of 8): out[column][head_].
void Engine::heads_up(const Matrix& m, const Activations& in, int head, int first, int count, float* out) const {
    const int tiles = head_ / TILE_ROWS;
    float part[PANEL * TILE_ROWS];
    for (int panel = first / PANEL; panel * PANEL < first + count; panel++)
        for (int tile = 0; tile < tiles; tile++) {
            kernels_->tile(m, head * tiles + tile, in, panel, part);
            for (int c = 0; c < in.width(panel); c++)
                memcpy(out + (size_t)(panel * PANEL - first + c) * head_ + tile * TILE_ROWS, part + c * TILE_ROWS,
                       sizeof(float) * TILE_ROWS);
        }
}

// The first column from `column` on, up to `last`, that is another slot's: those before it follow each other.
int Engine::run_end(int column, int last) const {
    int end = column + 1;
    while (end < last && column_slot_[(size_t)end] == column_slot_[(size_t)column]) end++;
    return end;
}

// The state of a head, of the slot of a column.
float* Engine::matrix(int column, int layer, int head) const {
    return matrices(column_slot_[(size_t)column]) + ((size_t)layer * config_.heads + head) * head_ * head_;
}

// One RWKV-7 head, all columns: the four LoRA products, decay, rate, key norm, recurrence, group norm, bonus, gate.
void Engine::head7(int layer, int head, int thread) {
    const Layer& l = layers_[(size_t)layer];
    const int n = head_, columns = (int)column_slot_.size(), channel = head * n;
    const size_t part = (size_t)HEAD_COLUMNS * n, row_bytes = (size_t)n * sizeof(float);
    float* const base = scratch_[(size_t)thread].head.data();
    float *const w = base, *const rate = w + part, *const value_gate = rate + part, *const gate = value_gate + part;
    float *const r = gate + part, *const k = r + part, *const v = k + part, *const removed = v + part;
    float *const added = removed + part, *const y = value_gate; // free after prepare7
    const auto vector = [&](int role) { return l.vector[role].empty() ? nullptr : l.vector[role].data() + channel; };
    for (int first = 0; first < columns; first += HEAD_COLUMNS) {
        const int count = std::min(HEAD_COLUMNS, columns - first);
        heads_up(l.matrix[DECAY_UP], decay_low_, head, first, count, w);
        heads_up(l.matrix[RATE_UP], rate_low_, head, first, count, rate);
        heads_up(l.matrix[GATE_UP], gate_low_, head, first, count, gate);
        if (layer > 0) heads_up(l.matrix[VALUE_UP], value_low_, head, first, count, value_gate);
        for (int c = 0; c < count; c++) {
            const size_t from = (size_t)(first + c) * attention_ + channel, at = (size_t)c * n;
            memcpy(r + at, &r_[from], row_bytes);
            memcpy(k + at, &k_[from], row_bytes);
            memcpy(v + at, &v_[from], row_bytes);
            kernels_->prepare7(n, k + at, v + at, w + at, rate + at, layer ? value_gate + at : nullptr, removed + at,
                               added + at, vector(DECAY), vector(RATE), vector(VALUE_BASE), vector(KEY_NORM),
                               vector(KEY_RATE), &v_first_[from]);
            if (layer == 0) memcpy(&v_first_[from], v + at, row_bytes);
        }
        for (int c = 0, end; c < count; c = end) {
            end = run_end(first + c, first + count) - first;
            const size_t at = (size_t)c * n;
            kernels_->wkv7({end - c, n, matrix(first + c, layer, head), end < count ? matrix(first + end, layer, head) : nullptr,
                            r + at, w + at, k + at, v + at, removed + at, added + at, nullptr, n, y + at});
        }
        for (int c = 0; c < count; c++) {
            const size_t at = (size_t)c * n;
            kernels_->finish7(config_.head_size, n, y + at, r + at, k + at, v + at, gate + at, vector(BONUS),
                              vector(LNX_WEIGHT), vector(LNX_BIAS), GROUP_NORM_EPS);
            kernels_->put(out_in_, first + c, channel, n, y + at);
        }
    }
}

// One head of RWKV-5 or 6.
void Engine::head5(int layer, int head, int thread) {
    const Layer& l = layers_[(size_t)layer];
    const int n = head_, columns = (int)column_slot_.size(), channel = head * n;
    const size_t part = (size_t)HEAD_COLUMNS * n, row_bytes = (size_t)n * sizeof(float);
    const bool is_6 = config_.architecture == 60, has_gate = config_.architecture != 50;
    float* const base = scratch_[(size_t)thread].head.data();
    float *const w = base, *const r = w + part, *const k = r + part, *const v = k + part, *const y = v + part;
    const float* const decay = l.vector[DECAY].data() + channel;
    for (int first = 0; first < columns; first += HEAD_COLUMNS) {
        const int count = std::min(HEAD_COLUMNS, columns - first);
        if (is_6) heads_up(l.matrix[DECAY_UP], decay_low_, head, first, count, w);
        for (int c = 0; c < count; c++) {
            const size_t from = (size_t)(first + c) * attention_ + channel, at = (size_t)c * n;
            memcpy(r + at, &r_[from], row_bytes);
            memcpy(k + at, &k_[from], row_bytes);
            memcpy(v + at, &v_[from], row_bytes);
            if (is_6) kernels_->decay6(w + at, decay, n);
        }
        for (int c = 0, end; c < count; c = end) {
            end = run_end(first + c, first + count) - first;
            const size_t at = (size_t)c * n;
            kernels_->wkv5({end - c, n, matrix(first + c, layer, head), end < count ? matrix(first + end, layer, head) : nullptr,
                            r + at, is_6 ? w + at : decay, k + at, v + at, nullptr, nullptr, l.vector[BONUS].data() + channel,
                            is_6 ? n : 0, y + at});
        }
        for (int c = 0; c < count; c++) {
            const float* gate = has_gate ? &g_[(size_t)(first + c) * attention_ + channel] : nullptr;
            kernels_->finish5(config_.head_size, n, y + (size_t)c * n, gate, l.vector[LNX_WEIGHT].data() + channel,
                              l.vector[LNX_BIAS].data() + channel, GROUP_NORM_EPS);
            kernels_->put(out_in_, first + c, channel, n, y + (size_t)c * n);
        }
    }
}

// RWKV-4's recurrence for some channels.
void Engine::channels4(int layer, int unit) {
    const Layer& l = layers_[(size_t)layer];
    const int first = unit * CHANNELS, count = std::min(CHANNELS, attention_ - first), columns = (int)column_slot_.size();
    for (int c = 0, end; c < columns; c = end) {
        end = run_end(c, columns);
        float* aa = matrices(column_slot_[(size_t)c]) + (size_t)layer * 3 * attention_ + first;
        const size_t at = (size_t)c * attention_ + first;
        kernels_->wkv4(end - c, count, attention_, aa, aa + attention_, aa + 2 * attention_, &r_[at], &k_[at], &v_[at],
                       l.vector[DECAY].data() + first, l.vector[BONUS].data() + first, &r_[at]);
    }
    for (int c = 0; c < columns; c++) kernels_->put(out_in_, c, first, count, &r_[(size_t)c * attention_ + first]);
}

} // namespace roost
