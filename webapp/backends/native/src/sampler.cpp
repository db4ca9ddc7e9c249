#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace roost {

namespace {
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
constexpr float LOWEST = -std::numeric_limits<float>::max(); // of a token that may not be drawn
constexpr uint64_t GAMMA = 0x9E3779B97F4A7C15ull;

constexpr auto ascending = [](int32_t a, int32_t b) { return a < b; }; // without it libc++'s own sort is called: system.h

uint64_t mix(uint64_t z) { // SplitMix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
double uniform(uint64_t seed, uint64_t position) {
    return (double)(mix(mix(seed + GAMMA) + (position + 1) * GAMMA) >> 11) * 0x1p-53;
}

// exp with what `Kernels::exponentials` leaves at 0.
void exact_exponentials(const Kernels& kernels, const float* x, float largest, float factor, int count, float* out) {
    if (!kernels.exponentials(x, largest, factor, count, out)) return;
    for (int i = 0; i < count; i++)
        if (out[i] == 0.f) out[i] = std::exp((x[i] - largest) * factor);
}
} // namespace

Sampler::Sampler(int threads, int vocab) : scratch_((size_t)threads) {
    for (Scratch& scratch : scratch_) {
        scratch.adjusted.resize((size_t)vocab);
        scratch.weights.resize((size_t)vocab);
        scratch.kept.resize((size_t)vocab + 16);
        scratch.powers.resize((size_t)vocab);
        scratch.some_logits.resize((size_t)vocab);
        scratch.some_weights.resize((size_t)vocab);
        scratch.candidates.reserve((size_t)vocab);
        scratch.maxima.resize((size_t)vocab / LOGIT_BLOCK + 1);
        scratch.has_weights.resize((size_t)vocab / LOGIT_BLOCK + 1);
        scratch.sums.resize((size_t)vocab / LOGIT_BLOCK + 1);
    }
}

void Sampler::sample(const Kernels& kernels, Pool& pool, const SamplingJob& job) {
    kernels_ = &kernels;
    pool_ = &pool;
    job_ = job;
    count_.store(job.count);
    pool.run(run, this, pool.was_alone()); // else the others are still awake
}

void Sampler::run(void* sampler, int thread, uint32_t phase) {
    Sampler& s = *(Sampler*)sampler;
    s.pool_->phase(phase, s.count_.load(std::memory_order_relaxed), 1,
                   [&](int i) { s.line(i, s.scratch_[(size_t)thread]); });
}

void Sampler::line(int i, Scratch& scratch) const {
    float* logits = const_cast<float*>(job_.logits) + (size_t)job_.lines[i] * (size_t)job_.stride;
    const int count = job_.vocab;
    float largest, top, *row = logits, *maxima = scratch.maxima.data();
    if (job_.maxima) memcpy(maxima, job_.maxima + (size_t)job_.lines[i] * blocks(), (size_t)blocks() * sizeof(float));
    else kernels_->maxima(logits, count, maxima);
    const bool is_finite = kernels_->scan(maxima, blocks(), &largest);
    top = largest;
    if (is_finite && (job_.starts[i] != job_.starts[i + 1] || job_.banned_count || job_.mask_of[i] >= 0)) {
        if (!job_.may_overwrite || job_.alternatives[i] >= 0) { // somebody needs the line as it was
            row = scratch.adjusted.data();
            memcpy(row, logits, (size_t)count * sizeof(float));
        }
        adjust(i, row, scratch);
        kernels_->scan(maxima, blocks(), &top);
    }
    if (!is_finite || top <= LOWEST) {
        job_.token_ids[i] = is_finite ? SAMPLED_NO_TOKEN : SAMPLED_NOT_FINITE;
        return;
    }
    const int32_t place = job_.temperature[i] == 0.f ? best(row, top, scratch) : draw(i, row, top, scratch);
    job_.token_ids[i] = job_.token_of ? job_.token_of[place] : place;
    if (job_.alternatives[i] >= 0) report(i, logits, largest, scratch); // of lines of all tokens only
}

int32_t Sampler::best(const float* row, float top, const Scratch& scratch) const {
    int block = 0;
    while (scratch.maxima[(size_t)block] < top) block++;
    int32_t place = block * LOGIT_BLOCK;
    while (row[place] < top) place++;
    return place;
}

// Penalties, bias, bans and the mask; the maxima of the blocks they change follow.
void Sampler::adjust(int i, float* row, Scratch& scratch) const {
    const int count = job_.vocab;
    std::vector<int32_t>& changed = scratch.changed;
    changed.clear();
    for (int j = job_.starts[i]; j < job_.starts[i + 1]; j++) {
        const int place = job_.place_of ? job_.place_of[job_.ids[j]] : job_.ids[j];
        if (place < 0) continue;
        row[place] = std::max(row[place] + job_.values[j], LOWEST);
        changed.push_back(place / LOGIT_BLOCK);
    }
    for (int j = 0; j < job_.banned_count; j++) {
        row[job_.banned[j]] = LOWEST;
        changed.push_back(job_.banned[j] / LOGIT_BLOCK);
    }
    if (job_.mask_of[i] >= 0) {
        const uint32_t* mask = job_.masks + (size_t)job_.mask_of[i] * (size_t)job_.mask_words;
        if (job_.token_of) {
            for (int place = 0; place < count; place++) {
                const int32_t id = job_.token_of[place];
                if (!(mask[id / 32] >> (id % 32) & 1)) row[place] = LOWEST;
            }
        } else {
            for (int start = 0; start < count; start += 32) {
                const uint32_t bits = mask[start / 32];
                if (bits == 0xffffffffu) continue;
                for (int j = 0; j < std::min(32, count - start); j++)
                    if (!(bits >> j & 1)) row[start + j] = LOWEST;
            }
        }
    }
    if (job_.mask_of[i] >= 0 || changed.size() > (size_t)blocks()) {
        kernels_->maxima(row, count, scratch.maxima.data());
        return;
    }
    std::sort(changed.begin(), changed.end(), ascending);
    int32_t last = -1;
    for (const int32_t block : changed) {
        if (block == last) continue;
        last = block;
        const int start = block * LOGIT_BLOCK;
        kernels_->maxima(row + start, std::min(LOGIT_BLOCK, count - start), &scratch.maxima[(size_t)block]);
    }
}

// The sum of exp((x - largest) * factor), that of each block in scratch.sums.
double Sampler::total(const float* row, float largest, float factor, Scratch& scratch) const {
    kernels_->block_sums(row, scratch.maxima.data(), largest, factor, job_.vocab, scratch.sums.data());
    double sum = 0;
    for (int block = 0; block < blocks(); block++) sum += (double)scratch.sums[(size_t)block];
    return sum;
}

// The tokens of a weight of at least `bound`, ascending, in scratch.kept, and their weights in scratch.weights.
int Sampler::at_least(const float* row, float largest, float bound, Scratch& scratch) const {
    const float least = bound > 0.f ? largest + std::log(bound) - 0.01f : LOWEST;
    int32_t* kept = scratch.kept.data();
    int count = 0;
    for (int block = 0; block < blocks(); block++) {
        if (scratch.maxima[(size_t)block] < least) continue;
        const int start = block * LOGIT_BLOCK, length = std::min(LOGIT_BLOCK, job_.vocab - start);
        float* weights = &scratch.weights[(size_t)start];
        if (!scratch.has_weights[(size_t)block]) exact_exponentials(*kernels_, row + start, largest, 1.f, length, weights);
        scratch.has_weights[(size_t)block] = 1;
        const int found = kernels_->at_least(weights, bound, length, kept + count);
        for (int j = 0; j < found; j++) kept[count + j] += start;
        count += found;
    }
    return count;
}

// At least the best `count` tokens, likewise: `count` blocks have one of at least the smallest of their maxima.
int Sampler::best_few(const float* row, float largest, int count, Scratch& scratch) const {
    if (count >= blocks()) return at_least(row, largest, 0.f, scratch);
    std::vector<float>& best = scratch.sums;
    std::copy(scratch.maxima.begin(), scratch.maxima.begin() + blocks(), best.begin());
    std::nth_element(best.begin(), best.begin() + count - 1, best.begin() + blocks(), std::greater<float>());
    return at_least(row, largest, std::exp(best[(size_t)count - 1] - largest) * 0.999f, scratch);
}

// The logit of the first token, best first, at which the sum of weights reaches top_p * total. `ids` are candidates:
// tokens too rare for the cut to be among them are left out.
float Sampler::top_p_cut(const float* row, const float* weights, std::vector<int32_t>& ids, double wanted) const {
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
    std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    for (const int32_t id : ids) {
        sum += (double)weights[id];
        if (sum >= wanted) return row[id];
    }
    return row[ids.back()];
}

// Whether a quarter of the blocks and more hold a token of a weight of at least `bound`: then all are looked at in
// vectors, and nothing is listed.
bool Sampler::are_many(float largest, float bound, const Scratch& scratch) const {
    const float least = bound > 0.f ? largest + std::log(bound) : LOWEST;
    int count = 0;
    for (int block = 0; block < blocks(); block++) count += scratch.maxima[(size_t)block] >= least;
    return count * 4 > blocks();
}

// As top_p_cut, of a line of which many tokens are kept; `share` is top_p. Bounds of the cut come from every sixteenth
// block; one pass then sums the weights above them and lists what lies between, which is halved until it is one logit.
// Leaves the sums of the kept weights of each block in scratch.sums, and says so, unless too much lay between.
float Sampler::cut_of_many(const float* row, float largest, double share, Scratch& scratch) const {
    constexpr int SAMPLED_BLOCKS = 64, STEPS = 6, SAMPLE_STEPS = 10;
    constexpr double DEVIATIONS = 3;
    const int vocab = job_.vocab;
    float *xs = scratch.some_logits.data(), *ws = scratch.some_weights.data(), *sums = scratch.sums.data();
    int32_t* places = scratch.kept.data();
    const float lowest = largest - 87.f, highest = std::nextafter(largest, -LOWEST);
    // `low` and `high` close in on the cut: the weight of logits from `low` on is at least `wanted`, from `high` on less.
    const auto halve = [&](const float* x, const float* w, int count, double wanted, float& low, float& high, int steps) {
        for (; steps > 0; steps--) {
            const float middle = (float)(((double)low + (double)high) / 2);
            if (middle <= low || middle >= high) return;
            (kernels_->weight_from(x, w, count, middle) >= wanted ? low : high) = middle;
        }
    };
    float low = lowest, high = highest;
    const int step = std::max(1, blocks() / SAMPLED_BLOCKS);
    if (step > 1) {
        int count = 0;
        double squares = 0;
        for (int block = 0; block * LOGIT_BLOCK + LOGIT_BLOCK <= vocab; block += step, count += LOGIT_BLOCK) {
            float square;
            memcpy(xs + count, row + block * LOGIT_BLOCK, LOGIT_BLOCK * sizeof(float));
            kernels_->block_sums(xs + count, &scratch.maxima[(size_t)block], largest, 2.f, LOGIT_BLOCK, &square);
            squares += (double)square;
        }
        kernels_->exponentials(xs, largest, 1.f, count, ws);
        double sum = kernels_->weight_from(xs, ws, count, LOWEST), unseen = 0;
        double margin = DEVIATIONS * std::sqrt(share * (1 - share) * squares) / sum;
        // Logits of so little weight that all together have less than half of what is cut off.
        low = std::max(lowest, largest + (float)std::log(sum * (1.0 - share) / (2.0 * count)));
        float above = highest, below = low;
        if (margin > 0.05) { // few tokens have most of the weight: all is summed, and the cut looked for from below
            const double seen = sum;
            sum = total(row, largest, 1.f, scratch) * count / vocab, unseen = sum - seen;
            halve(xs, ws, count, share * sum - unseen, below, above, SAMPLE_STEPS);
            margin = DEVIATIONS * std::sqrt((1 - share) * (double)std::exp(below - largest) / sum);
            above = highest, below = low;
        }
        halve(xs, ws, count, (share + margin) * sum - unseen, low, above, SAMPLE_STEPS);
        halve(xs, ws, count, (share - margin) * sum - unseen, below, high, SAMPLE_STEPS);
    }
    double all, more, wanted;
    int count = 0;
    const auto fits = [&] { // whether the cut lies between
        count = kernels_->weigh_parts(row, largest, low, high, vocab, sums, places, &all, &more);
        for (int i = 0; i < count; i++) xs[i] = row[places[i]];
        kernels_->exponentials(xs, largest, 1.f, count, ws);
        wanted = share * all;
        return more < wanted && more + kernels_->weight_from(xs, ws, count, low) >= wanted;
    };
    if (!fits()) low = lowest, high = highest, fits();
    int left = count;
    const float *left_xs = xs, *left_ws = ws;
    float *to_xs = xs, *to_ws = ws;
    scratch.has_sums = count * 2 <= vocab;
    if (scratch.has_sums) to_xs += count, to_ws += count; // what lay between is needed again
    for (;;) {
        wanted -= more;
        const float before_low = low, before_high = high;
        halve(left_xs, left_ws, left, wanted, low, high, STEPS);
        if (low == before_low && high == before_high) break;
        left = kernels_->between(left_xs, left_ws, left, low, high, to_xs, to_ws, &more);
        left_xs = to_xs, left_ws = to_ws;
    }
    if (scratch.has_sums)
        for (int i = 0; i < count; i++) sums[places[i] / LOGIT_BLOCK] += xs[i] >= low ? ws[i] : 0.f;
    return low;
}

// The tokens that may be drawn, ascending, in scratch.kept; ALL of them; or MANY: those of at least scratch.cut and
// min_p, with the sums of their weights in scratch.sums if scratch.has_sums.
int Sampler::keep(int i, const float* row, float largest, Scratch& scratch) const {
    const int vocab = job_.vocab, top_k = job_.top_k[i];
    const float top_p = job_.top_p[i], min_p = job_.min_p[i];
    const bool cuts_k = top_k > 0 && top_k < vocab;
    if (top_p >= 1.f && !cuts_k && min_p <= 0.f) return ALL;
    const float* weights = scratch.weights.data();
    int32_t* kept = scratch.kept.data();
    int count = 0;
    std::fill(scratch.has_weights.begin(), scratch.has_weights.end(), (char)0);
    const auto keep_many = [&] {
        scratch.has_sums = false;
        scratch.cut = top_p < 1.f ? cut_of_many(row, largest, (double)top_p, scratch) : LOWEST;
        if (!cuts_k) return MANY;
        const int best = best_few(row, largest, top_k, scratch);
        return (int)(std::remove_if(kept, kept + best, [&](int32_t id) { return row[id] < scratch.cut; }) - kept);
    };
    if (top_p < 1.f && are_many(largest, 0x1p-8f, scratch)) {
        if ((count = keep_many()) == MANY) return MANY;
    } else if (top_p < 1.f) {
        const double all = total(row, largest, 1.f, scratch), wanted = (double)top_p * all;
        // Tokens rarer than (1 - top_p) / vocab sum to less than 1 - top_p all together: the cut is above them. Most
        // often it is far above, where there are few to look at.
        const float floor = (float)(0.999 * all * (1.0 - (double)top_p) / vocab);
        bool is_listed = false;
        for (const float bound : {0x1p-4f, 0x1p-8f, 0.f}) {
            if (are_many(largest, std::max(bound, floor), scratch)) break;
            count = at_least(row, largest, std::max(bound, floor), scratch);
            double sum = 0;
            for (int j = 0; j < count; j++) sum += (double)weights[kept[j]];
            is_listed = bound <= floor || sum >= wanted;
            if (is_listed) break;
        }
        if (is_listed) {
            scratch.candidates.assign(kept, kept + count);
            const float cut = top_p_cut(row, weights, scratch.candidates, wanted);
            count = (int)(std::remove_if(kept, kept + count, [&](int32_t id) { return row[id] < cut; }) - kept);
        } else if ((count = keep_many()) == MANY) return MANY;
    } else if (min_p > 0.f && !cuts_k && are_many(largest, min_p, scratch)) return keep_many();
    else if (min_p > 0.f) count = at_least(row, largest, min_p, scratch);
    else count = best_few(row, largest, top_k, scratch);
    if (cuts_k && top_k < count) {
        const auto is_better = [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; };
        std::nth_element(kept, kept + top_k, kept + count, is_better);
        std::sort(kept, kept + top_k, ascending);
        count = top_k;
    }
    return (int)(std::remove_if(kept, kept + count, [&](int32_t id) { return weights[id] < min_p; }) - kept);
}

int32_t Sampler::draw(int i, const float* row, float largest, Scratch& scratch) const {
    const float temperature = job_.temperature[i];
    const double number = uniform(job_.seed[i], job_.position[i]);
    const int count = keep(i, row, largest, scratch);
    if (count == ALL) return draw_any(row, largest, temperature, number, scratch);
    if (count == MANY) {
        float *weights = scratch.weights.data(), *sums = scratch.sums.data();
        const float factor = 1.f / temperature, min_p = job_.min_p[i];
        const auto weigh = [&](int block, float* to) {
            const int start = block * LOGIT_BLOCK, length = std::min(LOGIT_BLOCK, job_.vocab - start);
            return kernels_->weigh_kept(row + start, scratch.cut, min_p, largest, factor, length, to);
        };
        if (!scratch.has_sums || factor != 1.f || min_p > 0.999f * std::exp(scratch.cut - largest))
            for (int block = 0; block < blocks(); block++) sums[block] = weigh(block, nullptr);
        return pick(sums, number, [&](int block) {
            weigh(block, weights);
            return weights;
        });
    }
    const int32_t* kept = scratch.kept.data();
    double* powers = scratch.powers.data();
    double sum = 0;
    for (int j = 0; j < count; j++)
        sum += powers[j] = std::exp((double)(row[kept[j]] - largest) / (double)temperature);
    double reached = 0;
    int last = 0; // the last token with a weight, should rounding leave the sum below
    for (int j = 0; j < count; j++) {
        reached += powers[j];
        if (reached > number * sum) return kept[j];
        if (powers[j] > 0) last = j;
    }
    return kept[last];
}

// The place that `number` of the way through the sums of the blocks leads to; `weights_of(block)` are those of its tokens.
template <class Weights> int32_t Sampler::pick(const float* sums, double number, Weights&& weights_of) const {
    double all = 0, reached = 0;
    for (int block = 0; block < blocks(); block++) all += (double)sums[block];
    const double at = number * all;
    int last_block = 0;
    const auto place_in = [&](int block, double above) { // the first token at which the sum is above; -1 for none
        const float* weights = weights_of(block);
        double inside = reached;
        int32_t last = -1;
        for (int j = 0; j < std::min(LOGIT_BLOCK, job_.vocab - block * LOGIT_BLOCK); j++) {
            if (!(weights[j] > 0.f)) continue;
            inside += (double)weights[j];
            last = block * LOGIT_BLOCK + j;
            if (inside > above) return last;
        }
        return above < std::numeric_limits<double>::infinity() ? -1 : last;
    };
    for (int block = 0; block < blocks(); block++) {
        if (!(sums[block] > 0.f)) continue;
        last_block = block;
        if (reached + (double)sums[block] > at) {
            const int32_t place = place_in(block, at);
            if (place >= 0) return place;
        }
        reached += (double)sums[block];
    }
    return place_in(last_block, std::numeric_limits<double>::infinity()); // rounding led past the last token
}

// From the whole vocabulary: sums of blocks first, then the place in one.
int32_t Sampler::draw_any(const float* row, float largest, float temperature, double number, Scratch& scratch) const {
    const float factor = 1.f / temperature;
    total(row, largest, factor, scratch);
    return pick(scratch.sums.data(), number, [&](int block) {
        const int start = block * LOGIT_BLOCK;
        float* weights = &scratch.weights[(size_t)start];
        exact_exponentials(*kernels_, row + start, largest, factor, std::min(LOGIT_BLOCK, job_.vocab - start), weights);
        return weights;
    });
}

// Logprobs of the model's own distribution: of the drawn token, and the best ones.
void Sampler::report(int i, const float* logits, float largest, Scratch& scratch) const {
    const int vocab = job_.vocab, most = job_.most_alternatives, wanted = std::min(job_.alternatives[i], vocab);
    kernels_->maxima(logits, vocab, scratch.maxima.data());
    const double log_total = (double)largest + std::log(total(logits, largest, 1.f, scratch));
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
