#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace roost {

namespace {
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
constexpr float LOWEST = -std::numeric_limits<float>::max(); // of a token that may not be drawn
constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15ull;

uint64_t mix(uint64_t z) { // SplitMix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
double uniform(uint64_t seed, uint64_t position) {
    return (double)(mix(mix(seed + GAMMA) + (position + 1) * GAMMA) >> 11) * 0x1p-53;
}

bool is_finite(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits & 0x7f800000) != 0x7f800000;
}

// exp with what `Kernels::exponentials` leaves at 0; the positions of those of at least `bound`, where one is given.
int exact_exponentials(const Kernels& kernels, const float* x, float largest, float factor, int count, float* out,
                       double* total, float bound = 2.f, int32_t* positions = nullptr) {
    int found = 0;
    if (!kernels.exponentials(x, largest, factor, count, out, total, bound, positions, &found)) return found;
    double sum = 0;
    for (int i = 0; i < count; i++) {
        if (out[i] == 0.f) out[i] = std::exp((x[i] - largest) * factor);
        sum += (double)out[i];
    }
    *total = sum;
    return found;
}
} // namespace

Sampler::Sampler(int threads, int vocab) : scratch_((size_t)threads) {
    for (Scratch& scratch : scratch_) {
        scratch.adjusted.resize((size_t)vocab);
        scratch.weights.resize((size_t)vocab);
        scratch.kept.resize((size_t)vocab + 16);
        scratch.powers.resize((size_t)vocab);
        scratch.candidates.reserve((size_t)vocab);
    }
}

void Sampler::sample(const Kernels& kernels, Pool& pool, const SamplingJob& job) {
    kernels_ = &kernels;
    pool_ = &pool;
    job_ = job;
    count_.store(job.count);
    pool.run(run, this);
}

void Sampler::run(void* sampler, int thread, uint32_t phase) {
    Sampler& s = *(Sampler*)sampler;
    s.pool_->phase(phase, s.count_.load(std::memory_order_relaxed), 1,
                   [&](int i) { s.line(i, s.scratch_[(size_t)thread]); });
}

void Sampler::line(int i, Scratch& scratch) const {
    float* logits = const_cast<float*>(job_.logits) + (size_t)job_.lines[i] * (size_t)job_.stride;
    const int count = job_.vocab;
    float largest, top, *row = logits;
    bool is_finite = true;
    if (job_.starts[i] == job_.starts[i + 1] && job_.banned_count == 0 && job_.mask_of[i] < 0) {
        is_finite = kernels_->scan(logits, count, &largest);
        top = largest;
    } else if (job_.may_overwrite && job_.alternatives[i] < 0) { // nobody needs the line as it was
        is_finite = adjust(i, row) && kernels_->scan(row, count, &top);
    } else {
        row = scratch.adjusted.data();
        is_finite = kernels_->scan(logits, count, &largest);
        memcpy(row, logits, (size_t)count * sizeof(float));
        if (is_finite) adjust(i, row), kernels_->scan(row, count, &top);
    }
    if (!is_finite || top <= LOWEST) {
        job_.token_ids[i] = is_finite ? SAMPLED_NO_TOKEN : SAMPLED_NOT_FINITE;
        return;
    }
    const int32_t place = job_.temperature[i] == 0.f ? best(row, top, scratch) : draw(i, row, top, scratch);
    job_.token_ids[i] = job_.token_of ? job_.token_of[place] : place;
    if (job_.alternatives[i] >= 0) report(i, logits, largest, scratch); // of lines of all tokens only
}

int32_t Sampler::best(const float* adjusted, float top, Scratch& scratch) const {
    constexpr int BLOCK = 2048;
    for (int start = 0;; start += BLOCK)
        if (kernels_->at_least(adjusted + start, top, std::min(BLOCK, job_.vocab - start), scratch.kept.data()))
            return start + scratch.kept[0];
}

// False when it met NaN or infinity in what it changed.
bool Sampler::adjust(int i, float* row) const {
    const int count = job_.vocab;
    bool was_finite = true;
    const auto forbid = [&](int place) {
        was_finite &= is_finite(row[place]);
        row[place] = LOWEST;
    };
    for (int j = job_.starts[i]; j < job_.starts[i + 1]; j++) {
        const int place = job_.place_of ? job_.place_of[job_.ids[j]] : job_.ids[j];
        if (place < 0) continue;
        was_finite &= is_finite(row[place]);
        row[place] = std::max(row[place] + job_.values[j], LOWEST);
    }
    for (int j = 0; j < job_.banned_count; j++) forbid(job_.banned[j]);
    if (job_.mask_of[i] < 0) return was_finite;
    const uint32_t* mask = job_.masks + (size_t)job_.mask_of[i] * (size_t)job_.mask_words;
    if (job_.token_of) {
        for (int place = 0; place < count; place++) {
            const int32_t id = job_.token_of[place];
            if (!(mask[id / 32] >> (id % 32) & 1)) forbid(place);
        }
        return was_finite;
    }
    for (int start = 0; start < count; start += 32) {
        const uint32_t bits = mask[start / 32];
        if (bits == 0xffffffffu) continue;
        for (int j = 0; j < std::min(32, count - start); j++)
            if (!(bits >> j & 1)) forbid(start + j);
    }
    return was_finite;
}

// The logit of the first token, best first, at which the sum of weights reaches top_p * total. `ids` are candidates:
// tokens too rare for the cut to be among them are left out.
float Sampler::top_p_cut(const float* adjusted, const float* weights, std::vector<int32_t>& ids, double wanted) const {
    double sum = 0;
    if (ids.size() > 256) { // by eighths of powers of two first, so that only the cut's bucket is sorted
        constexpr int BUCKETS = 128 * 8, SHIFT = 20;
        double sums[BUCKETS] = {};
        const auto bucket = [&](int32_t id) { // weights are in (0, 1]
            uint32_t bits;
            memcpy(&bits, weights + id, 4);
            return (int)std::min<uint32_t>(bits >> SHIFT, BUCKETS - 1);
        };
        for (const int32_t id : ids) sums[bucket(id)] += (double)weights[id];
        int at = BUCKETS - 1, lowest = BUCKETS - 1;
        for (int i = 0; i < BUCKETS; i++)
            if (sums[i] > 0) {
                lowest = i;
                break;
            }
        while (at > lowest && sum + sums[at] < wanted) sum += sums[at--];
        ids.erase(std::remove_if(ids.begin(), ids.end(), [&](int32_t id) { return bucket(id) != at; }), ids.end());
    }
    std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return adjusted[a] > adjusted[b]; });
    for (const int32_t id : ids) {
        sum += (double)weights[id];
        if (sum >= wanted) return adjusted[id];
    }
    return adjusted[ids.back()];
}

// The tokens that may be drawn, ascending, in scratch.kept; -1: all of them.
int Sampler::keep(int i, const float* adjusted, float largest, Scratch& scratch) const {
    const int vocab = job_.vocab, top_k = job_.top_k[i];
    const float top_p = job_.top_p[i], min_p = job_.min_p[i];
    const bool cuts_k = top_k > 0 && top_k < vocab;
    if (top_p >= 1.f && !cuts_k && min_p <= 0.f) return -1;
    float* weights = scratch.weights.data();
    double total;
    int32_t* kept = scratch.kept.data();
    constexpr float USUAL = 0x1p-4f; // what is kept is most often above this
    int count = exact_exponentials(*kernels_, adjusted, largest, 1.f, vocab, weights, &total, USUAL, kept);
    if (top_p < 1.f) {
        // Tokens rarer than (1 - top_p) / vocab sum to less than 1 - top_p all together: the cut is above them. Most
        // often it is far above, where there are few to look at.
        const float floor = (float)(0.999 * total * (1.0 - (double)top_p) / vocab);
        for (const float bound : {USUAL, 0x1p-8f, 0.f}) {
            if (bound != USUAL || floor > USUAL) count = kernels_->at_least(weights, std::max(bound, floor), vocab, kept);
            double sum = 0;
            for (int j = 0; j < count; j++) sum += (double)weights[kept[j]];
            if (bound <= floor || sum >= (double)top_p * total) break;
        }
        scratch.candidates.assign(kept, kept + count);
        const float cut = top_p_cut(adjusted, weights, scratch.candidates, (double)top_p * total);
        count = (int)(std::remove_if(kept, kept + count, [&](int32_t id) { return adjusted[id] < cut; }) - kept);
    } else count = kernels_->at_least(weights, min_p, vocab, kept);
    if (cuts_k && top_k < count) {
        const auto is_better = [&](int32_t a, int32_t b) {
            return adjusted[a] != adjusted[b] ? adjusted[a] > adjusted[b] : a < b;
        };
        std::nth_element(kept, kept + top_k, kept + count, is_better);
        std::sort(kept, kept + top_k);
        count = top_k;
    }
    return (int)(std::remove_if(kept, kept + count, [&](int32_t id) { return weights[id] < min_p; }) - kept);
}

int32_t Sampler::draw(int i, const float* adjusted, float largest, Scratch& scratch) const {
    const float temperature = job_.temperature[i];
    const double number = uniform(job_.seed[i], job_.position[i]);
    const int count = keep(i, adjusted, largest, scratch);
    if (count < 0) return draw_any(adjusted, largest, temperature, number, scratch);
    const int32_t* kept = scratch.kept.data();
    double* powers = scratch.powers.data();
    double sum = 0;
    for (int j = 0; j < count; j++)
        sum += powers[j] = std::exp((double)(adjusted[kept[j]] - largest) / (double)temperature);
    double reached = 0;
    int last = 0; // the last token with a weight, should rounding leave the sum below
    for (int j = 0; j < count; j++) {
        reached += powers[j];
        if (reached > number * sum) return kept[j];
        if (powers[j] > 0) last = j;
    }
    return kept[last];
}

// From the whole vocabulary: sums of blocks first, then the place in one.
int32_t Sampler::draw_any(const float* adjusted, float largest, float temperature, double number, Scratch& scratch) const {
    constexpr int BLOCK = 256;
    const int vocab = job_.vocab, blocks = (vocab + BLOCK - 1) / BLOCK;
    float* weights = scratch.weights.data();
    double *sums = scratch.powers.data(), total = 0;
    exact_exponentials(*kernels_, adjusted, largest, 1.f / temperature, vocab, weights, &total);
    total = 0;
    for (int b = 0; b < blocks; b++) {
        const int start = b * BLOCK, end = std::min(vocab, start + BLOCK);
        double part[4] = {};
        int id = start;
        for (; id + 4 <= end; id += 4)
            for (int j = 0; j < 4; j++) part[j] += (double)weights[id + j];
        for (; id < end; id++) part[0] += (double)weights[id];
        total += sums[b] = (part[0] + part[1]) + (part[2] + part[3]);
    }
    const double at = number * total;
    double reached = 0;
    int b = 0;
    while (b + 1 < blocks && reached + sums[b] <= at) reached += sums[b++];
    int32_t last = -1;
    for (int id = b * BLOCK; id < vocab; id++) {
        reached += (double)weights[id];
        if (weights[id] > 0.f) {
            if (reached > at) return id;
            last = id;
        }
    }
    for (int id = vocab - 1; last < 0; id--) // rounding led past the last token with a weight
        if (weights[id] > 0.f) last = id;
    return last;
}

// Logprobs of the model's own distribution: of the drawn token, and the best ones.
void Sampler::report(int i, const float* logits, float largest, Scratch& scratch) const {
    const int vocab = job_.vocab, most = job_.most_alternatives, wanted = std::min(job_.alternatives[i], vocab);
    float* weights = scratch.weights.data();
    double total;
    exact_exponentials(*kernels_, logits, largest, 1.f, vocab, weights, &total);
    const double log_total = (double)largest + std::log(total);
    const auto logprob = [&](int32_t id) { return (float)((double)logits[id] - log_total); };
    job_.logprobs[i] = logprob(job_.token_ids[i]);
    if (wanted <= 0) return;
    int32_t* best = scratch.kept.data();
    const auto is_better = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    // Candidates: logits of at least the smallest of the first `wanted`, narrowed as better ones are seen.
    float floor = MINUS_INFINITY;
    int count = 0;
    for (int start = 0; start < vocab; start += 4096) {
        const int length = std::min(4096, vocab - start);
        const int found = kernels_->at_least(logits + start, floor, length, best + count);
        for (int j = 0; j < found; j++) best[count + j] += start;
        count += found;
        if (count > wanted) {
            std::nth_element(best, best + wanted - 1, best + count, is_better);
            count = wanted;
            floor = logits[best[wanted - 1]];
        }
    }
    std::sort(best, best + count, is_better);
    for (int j = 0; j < count; j++) {
        job_.best_ids[(size_t)i * most + j] = best[j];
        job_.best_logprobs[(size_t)i * most + j] = logprob(best[j]);
    }
}

} // namespace roost
