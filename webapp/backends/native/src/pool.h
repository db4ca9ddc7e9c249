// A pool of threads without barriers.
//
// One job runs on every thread as a fixed sequence of phases; a phase is a number of units, handed out a few at a time.
// A phase ends when its units are done, not when all threads have arrived: a thread whose core another process has taken
// delays nobody unless it holds a unit, and skips what others finished when it comes back, even into later jobs.
// (With spin barriers two threads made 48 tokens/s beside one busy process, one thread 77.)
//
//   current_   number of the phase (high 32 bits) | next unit (low 32 bits)
//   done_      finished units of this phase; the thread that completes the last one moves current_ on
//
// Rules for a job: the same number of phases every time (a phase may have 0 units); everything that touches data is in
// a unit; what decides the number of units is atomic, because a late thread may read it while the next job is set up.
// The job's argument outlives the pool.
#pragma once
#include "system.h"

#include <atomic>
#include <cstdint>
#include <vector>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace roost {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    using Job = void (*)(void* argument, int thread, uint32_t phase);

    explicit Pool(int threads) : size_(threads), members_((size_t)threads) {
        // Those that the system has no room for are done without: phases wait for units, not for threads.
        for (int i = 1; i < threads && members_[(size_t)i].start(this, i); i++) started_ = i;
    }
    ~Pool() {
        {
            Guard guard(mutex_);
            quit_.store(true);
            generation_.fetch_add(2);
        }
        wake_.notify_all();
        for (int i = 1; i <= started_; i++) members_[(size_t)i].thread.join();
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return size_; }
    bool was_alone() const { return alone_from_.load(std::memory_order_relaxed) != NEVER; } // in the last job

    // `alone`: on this thread, for a job so small that the others would come too late.
    void run(Job job, void* argument, bool alone = false) {
        const uint32_t first = (uint32_t)(current_.load(std::memory_order_relaxed) >> 32);
        alone_from_.store(alone || size_ == 1 ? first : NEVER);
        if (size_ > 1 && !alone) {
            generation_.fetch_add(1); // odd: a late thread must not mix the old job with the new phase number
            job_.store(job);
            argument_.store(argument);
            first_.store(first);
            generation_.fetch_add(1);
            if (sleepers_.load(std::memory_order_seq_cst) > 0) {
                { Guard guard(mutex_); }
                wake_.notify_all();
            }
        }
        job(argument, 0, first);
    }

    // Runs unit(0) .. unit(total - 1), `chunk` at a time, and counts `phase` on. `work` and `wait`, when given, gain the
    // seconds this thread spent in units and waiting for others.
    template <class Unit>
    void phase(uint32_t& phase, int total, int chunk, Unit&& unit, double* work = nullptr, double* wait = nullptr) {
        const uint64_t mine = (uint64_t)phase++ << 32;
        const double started = work ? seconds_now() : 0;
        const uint64_t alone = alone_from_.load(std::memory_order_relaxed);
        if (alone != NEVER && (int32_t)(phase - 1 - (uint32_t)alone) >= 0) { // not for a thread late from a job before
            for (int i = 0; i < total; i++) unit(i);
            current_.store(mine + (1ull << 32), std::memory_order_relaxed);
            if (work) *work += seconds_now() - started;
            return;
        }
        uint64_t seen = current_.load(std::memory_order_acquire);
        int finished = 0;
        for (;;) {
            if ((seen ^ mine) >> 32) return; // others finished it
            int i = (int)(uint32_t)seen;
            if (i >= total) break;
            const int end = i + chunk < total ? i + chunk : total;
            if (!current_.compare_exchange_weak(seen, mine | (uint32_t)end, std::memory_order_acq_rel,
                                                std::memory_order_acquire))
                continue;
            finished += end - i;
            for (; i < end; i++) unit(i);
            seen = current_.load(std::memory_order_acquire);
        }
        const double worked = work ? seconds_now() : 0;
        if (total == 0) {
            uint64_t expected = mine;
            current_.compare_exchange_strong(expected, mine + (1ull << 32), std::memory_order_acq_rel);
        } else if (finished && done_.fetch_add(finished, std::memory_order_acq_rel) + finished == total) {
            done_.store(0, std::memory_order_relaxed);
            current_.store(mine + (1ull << 32), std::memory_order_release);
        } else {
            for (int spins = 0; !((current_.load(std::memory_order_acquire) ^ mine) >> 32); spins++) {
                if (spins < 2000) relax();
                else yield_thread();
            }
        }
        if (work) {
            *work += worked - started;
            *wait += seconds_now() - worked;
        }
    }

private:
    struct Member {
        Thread thread;
        Pool* pool = nullptr;
        int number = 0;
        bool start(Pool* of, int which) {
            pool = of, number = which;
            return thread.start([](void* member) { ((Member*)member)->pool->loop(((Member*)member)->number); }, this);
        }
    };
    static constexpr uint64_t NEVER = ~0ull;
    static constexpr int SPINS_BEFORE_SLEEP = 20000; // about 0.3 ms: longer than the pause between two tokens

    void loop(int thread) {
        uint32_t seen = 0;
        const auto nothing_new = [&](std::memory_order order) {
            const uint32_t generation = generation_.load(order);
            return generation == seen || generation % 2;
        };
        for (;;) {
            for (int i = 0; nothing_new(std::memory_order_acquire) && i < SPINS_BEFORE_SLEEP; i++) relax();
            if (nothing_new(std::memory_order_acquire)) {
                Guard guard(mutex_);
                sleepers_.fetch_add(1);
                while (nothing_new(std::memory_order_seq_cst)) wake_.wait(mutex_);
                sleepers_.fetch_sub(1);
            }
            const uint32_t generation = generation_.load();
            if (quit_.load()) return;
            const Job job = job_.load();
            void* const argument = argument_.load();
            const uint32_t first = first_.load();
            if (generation % 2 || generation_.load() != generation) continue; // a newer job is being set up
            seen = generation;
            job(argument, thread, first);
        }
    }

    const int size_;
    alignas(64) std::atomic<uint64_t> current_{0};
    alignas(64) std::atomic<int> done_{0};
    std::atomic<uint64_t> alone_from_{NEVER}; // the first phase of a job that one thread runs
    alignas(64) std::atomic<uint32_t> generation_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> quit_{false};
    std::atomic<Job> job_{nullptr};
    std::atomic<void*> argument_{nullptr};
    std::atomic<uint32_t> first_{0};
    Mutex mutex_;
    Condition wake_;
    std::vector<Member> members_; // by thread; the first is the caller's
    int started_ = 0;
};

} // namespace roost
