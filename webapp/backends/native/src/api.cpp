// The C interface. Every function checks what it is given and returns a Status (or a count of at least 0). One thread at a
// time may be in any function of one engine.
#include "engine.h"
#include "sampler.h"

#include <cmath>
#include <new>

using namespace roost;

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

namespace {
constexpr int32_t ABI = 5; // webapp/backends/native/library.py asks for this

struct Handle {
    Engine engine;
    Sampler sampler;
    int lines = 0; // of the last step
    bool is_ready = false;
    Handle(const Config& config, const Kernels* kernels) : engine(config, kernels), sampler(config.threads, config.vocab) {}
};

bool is_sound(const Config& c) {
    const auto within = [](int32_t value, int32_t low, int32_t high) { return value >= low && value <= high; };
    const int a = c.architecture;
    if (a != 40 && a != 50 && a != 51 && a != 52 && a != 60 && a != 70) return false;
    if (!within(c.layers, 1, 1024) || !within(c.width, 1, 1 << 17) || !within(c.attention, 1, 1 << 17) ||
        !within(c.hidden, 1, 1 << 19) || !within(c.vocab, 1, 1 << 22))
        return false;
    if (a == 40 ? c.heads || c.head_size
                : !within(c.heads, 1, 1 << 14) || !within(c.head_size, 1, 1024) ||
                      (int64_t)c.heads * c.head_size != c.attention)
        return false;
    for (const int32_t format : {c.format, c.head_format, c.lora_format})
        if (!within(format, F32, Q4)) return false;
    return within(c.threads, 1, 256) && within(c.max_slots, 1, 4096) && within(c.max_columns, 1, 4096);
}
} // namespace

API int32_t roost_abi() { return ABI; }

API int32_t roost_best_isa() {
    for (const int isa : {AVX512, AVX2})
        if (kernels_for(isa)) return isa;
    return PORTABLE;
}

// Null when the kernels of this level agree with the portable ones here, else what failed.
API const char* roost_self_test(int32_t isa) {
    const Kernels* kernels = kernels_for(isa);
    if (!kernels) return "this processor cannot run them";
    const char* failed = self_test(*kernels);
    return failed[0] ? failed : nullptr;
}

API void roost_free(Handle* h) {
    if (h) h->~Handle();
    free_aligned(h);
}

API int32_t roost_create(const Config* config, Handle** made) {
    if (!config || !made || !is_sound(*config)) return BAD_ARGUMENT;
    const Kernels* kernels = kernels_for(config->isa < 0 ? roost_best_isa() : config->isa);
    if (!kernels) return NO_SUCH_ISA;
    void* memory = allocate_aligned(sizeof(Handle));
    if (!memory) return NO_MEMORY;
    *made = new (memory) Handle(*config, kernels);
    if ((*made)->engine.has_memory()) return OK;
    roost_free(*made);
    *made = nullptr;
    return NO_MEMORY;
}

API const char* roost_isa_name(Handle* h) { return h->engine.kernels().name; }

API int32_t roost_set_matrix(Handle* h, int32_t layer, int32_t role, const void* data, int32_t dtype, int64_t row_stride,
                             int64_t input_stride, int32_t rows, int32_t inputs, int32_t first_row, int32_t total_rows,
                             int32_t is_trial) {
    return h->engine.set_matrix(layer, role, {data, dtype, row_stride, input_stride}, rows, inputs, first_row, total_rows,
                                is_trial != 0);
}
API int32_t roost_begin_calibration(Handle* h, int32_t sequences, const int32_t* counts, const int32_t* tokens) {
    return h->engine.begin_calibration(sequences, counts, tokens);
}
API int32_t roost_calibrate(Handle* h, int32_t layer) {
    return h->engine.calibrate(layer);
}
API int32_t roost_set_vector(Handle* h, int32_t layer, int32_t role, const float* values, int32_t count) {
    return h->engine.set_vector(layer, role, values, count);
}
API int32_t roost_set_initial_state(Handle* h, const float* matrices) {
    return h->engine.set_initial_state(matrices);
}
// How many words the directory has and how many parts there are; fills as much of both as there is room for.
API int32_t roost_parts(Handle* h, int64_t* directory, int32_t words, Engine::Part* parts, int32_t count, int32_t* found) {
    if (!h->is_ready) return INCOMPLETE;
    std::vector<int64_t> all;
    std::vector<Engine::Part> pieces;
    h->engine.parts(all, pieces);
    found[0] = (int32_t)all.size(), found[1] = (int32_t)pieces.size();
    if ((int32_t)all.size() <= words) std::copy(all.begin(), all.end(), directory);
    if ((int32_t)pieces.size() <= count) std::copy(pieces.begin(), pieces.end(), parts);
    return OK;
}
API int32_t roost_adopt(Handle* h, const void* memory, int64_t bytes) {
    if (h->is_ready) return BAD_ARGUMENT;
    return h->engine.adopt((const uint8_t*)memory, bytes);
}
API int32_t roost_ready(Handle* h) {
    const int status = h->engine.ready();
    h->is_ready = status == OK;
    return status;
}

API int32_t roost_new_slot(Handle* h) {
    return h->engine.new_slot();
}
API int32_t roost_free_slot(Handle* h, int32_t slot) { return h->engine.free_slot(slot); }
API int32_t roost_copy_slot(Handle* h, int32_t from, int32_t to) { return h->engine.copy_slot(from, to); }
API int64_t roost_state_floats(Handle* h) { return (int64_t)h->engine.state_floats(); }
API int32_t roost_save(Handle* h, int32_t slot, float* snapshot) { return h->engine.save(slot, snapshot); }
API int32_t roost_restore(Handle* h, int32_t slot, const float* snapshot) { return h->engine.restore(slot, snapshot); }
API int32_t roost_transfer_state(Handle* h, int32_t slot, int32_t write, float* att_x, float* ffn_x, float* rest) {
    return h->engine.transfer_state(slot, write != 0, att_x, ffn_x, rest);
}

API int32_t roost_spread(Handle* h, int32_t which) {
    if (which < NO_JOBS || which > ALL_JOBS) return BAD_ARGUMENT;
    h->engine.spread(which);
    return OK;
}
API int32_t roost_step(Handle* h, int32_t batch, const int32_t* slots, const int32_t* counts, const int32_t* tokens,
                       const int32_t* want) {
    if (!h->is_ready) return INCOMPLETE;
    h->lines = 0;
    int lines = 0;
    const int status = h->engine.step(batch, slots, counts, tokens, want, &lines);
    if (status != OK) return status;
    h->lines = lines;
    return lines;
}
// Null without memory for them.
API const float* roost_logits(Handle* h, int64_t* stride) {
    *stride = h->engine.logits_stride();
    const float* found = h->lines ? h->engine.logits() : nullptr;
    h->engine.give_away();
    return found;
}
API int32_t roost_set_usable(Handle* h, const int32_t* ids, int32_t count) {
    if (!h->is_ready) return INCOMPLETE;
    return h->engine.set_usable(ids, count);
}

API int32_t roost_sample(Handle* h, const SamplingJob* given) {
    SamplingJob job = *given;
    const int vocab = h->engine.config().vocab;
    if (job.count < 0 || job.banned_count < 0 || (job.count && job.starts[0] != 0)) return BAD_ARGUMENT;
    for (int i = 0; i < job.count; i++) {
        if (job.lines[i] < 0 || job.lines[i] >= h->lines || job.starts[i + 1] < job.starts[i]) return BAD_ARGUMENT;
        if (!(job.temperature[i] >= 0.f) || !(job.top_p[i] >= 0.f) || !(job.min_p[i] >= 0.f)) return BAD_ARGUMENT;
        if (job.mask_of[i] >= 0 && (job.mask_words * (int64_t)32 < vocab || !job.masks)) return BAD_ARGUMENT;
        if (job.alternatives[i] > job.most_alternatives || (job.alternatives[i] >= 0 && !job.logprobs)) return BAD_ARGUMENT;
    }
    const auto all_ids = [&](const int32_t* ids, int count) {
        for (int j = 0; j < count; j++)
            if (ids[j] < 0 || ids[j] >= vocab) return false;
        return true;
    };
    if (job.count && !all_ids(job.ids, job.starts[job.count])) return BAD_TOKEN;
    if (!all_ids(job.banned, job.banned_count)) return BAD_TOKEN;
    for (int j = 0; job.count && j < job.starts[job.count]; j++)
        if (!(job.values[j] < INFINITY)) return BAD_ARGUMENT; // NaN, too
    std::vector<char> seen((size_t)h->lines);
    job.may_overwrite = 1;
    for (int i = 0; i < job.count; i++) {
        if (seen[(size_t)job.lines[i]]) job.may_overwrite = 0;
        seen[(size_t)job.lines[i]] = 1;
    }
    job.token_of = job.place_of = nullptr;
    job.logits = job.only_usable && job.most_alternatives < 0 ? h->engine.usable_logits() : nullptr;
    if (job.logits) {
        job.stride = h->engine.usable_stride();
        job.vocab = (int32_t)h->engine.usable_ids().size();
        job.token_of = h->engine.usable_ids().data();
        job.place_of = h->engine.usable_rows().data();
        job.banned_count = 0;
        job.maxima = h->engine.maxima(true);
    } else {
        job.logits = h->engine.logits();
        job.stride = h->engine.logits_stride();
        job.vocab = vocab;
        job.maxima = h->engine.maxima(false);
    }
    if (job.count && !job.logits) return NO_MEMORY;
    h->sampler.sample(h->engine.kernels(), h->engine.pool(), job);
    return OK;
}

API int64_t roost_weight_bytes(Handle* h) { return (int64_t)h->engine.weight_bytes(); }
API int64_t roost_arena_bytes(Handle* h) { return (int64_t)h->engine.arena_bytes(); }
API double roost_read_bandwidth(Handle* h, int64_t bytes) {
    return h->engine.read_bandwidth((size_t)bytes);
}
API void roost_profile(Handle* h, int32_t on, double* work, double* wait) { h->engine.profile(on != 0, work, wait); }
