// From lines of logits to tokens; every step as webapp/engine/sampler.py defines it.
#pragma once
#include "pool.h"
#include "tiles.h"

#include <vector>

namespace roost {

// The arrays of a SamplingBatch; `logits` are lines of `stride` floats.
struct SamplingJob {
    const float* logits;
    int64_t stride;
    const int32_t* lines; // [count]: which line of logits
    int32_t count, vocab; // vocab: the length of a line
    const float *temperature, *top_p;
    const int32_t* top_k;
    const float* min_p;
    const uint64_t *seed, *position;
    const int32_t *starts, *ids;
    const float* values;
    const int32_t* banned;
    int32_t banned_count;
    const int32_t* mask_of;
    const uint32_t* masks;
    int32_t mask_words;
    const int32_t* alternatives;
    int32_t most_alternatives; // -1: no logprobs
    int32_t* token_ids;        // out [count], or NOT_FINITE / NO_TOKEN
    float* logprobs;           // out [count], or null
    int32_t* best_ids;         // out [count][most_alternatives]
    float* best_logprobs;
    int32_t only_usable;  // 1: the banned tokens are those outside the engine's usable ones
    // Set by the engine. Lines of some tokens: their ids, and by token its place or -1; null for lines of all tokens.
    const int32_t *token_of, *place_of;
    int32_t may_overwrite; // no line is named twice
    const float* maxima;   // of each LOGIT_BLOCK of each line, infinite where one is not finite; or null
};

constexpr int32_t SAMPLED_NOT_FINITE = -1, SAMPLED_NO_TOKEN = -2;

class Sampler {
public:
    Sampler(int threads, int vocab);
    void sample(const Kernels& kernels, Pool& pool, const SamplingJob& job);

private:
    struct Scratch {
        std::vector<float> adjusted, weights, maxima, sums, some_logits, some_weights;
        std::vector<int32_t> kept, candidates, changed;
        std::vector<char> has_weights; // by block
        std::vector<double> powers;
        float cut = 0; // of top_p, where keep() says MANY
        bool has_sums = false;
    };
    static constexpr int ALL = -1, MANY = -2; // of keep()
    static void run(void* sampler, int thread, uint32_t phase);
    void line(int i, Scratch& scratch) const;
    void adjust(int i, float* row, Scratch& scratch) const;
    int blocks() const { return (job_.vocab + LOGIT_BLOCK - 1) / LOGIT_BLOCK; }
    int32_t best(const float* row, float top, const Scratch& scratch) const;
    double total(const float* row, float largest, float factor, Scratch& scratch) const;
    int at_least(const float* row, float largest, float bound, Scratch& scratch) const;
    int best_few(const float* row, float largest, int count, Scratch& scratch) const;
    int keep(int i, const float* row, float largest, Scratch& scratch) const;
    bool are_many(float largest, float bound, const Scratch& scratch) const;
    float cut_of_many(const float* row, float largest, double share, Scratch& scratch) const;
    float top_p_cut(const float* row, const float* weights, std::vector<int32_t>& ids, double wanted) const;
    int32_t draw(int i, const float* row, float largest, Scratch& scratch) const;
    template <class Weights> int32_t pick(const float* sums, double number, Weights&& weights_of) const;
    int32_t draw_any(const float* row, float largest, float temperature, double number, Scratch& scratch) const;
    void report(int i, const float* logits, float largest, Scratch& scratch) const;

    std::vector<Scratch> scratch_;
    const Kernels* kernels_ = nullptr;
    Pool* pool_ = nullptr;
    SamplingJob job_{};
    std::atomic<int> count_{0};
};

} // namespace roost
