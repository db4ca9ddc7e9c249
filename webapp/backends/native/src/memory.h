// Aligned memory, and an arena of large blocks for weights and states.
#pragma once
#include "tiles.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>
#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

namespace roost {

// At least 64 bytes, at a multiple of 64. Null where there is no memory: what takes megabytes is asked for here, and every
// caller says so. (The few kilobytes of a std::vector end the process, as nothing here throws.)
inline void* allocate_aligned(size_t bytes) {
    bytes = align_up(bytes + 64, 64);
#if defined(_WIN32)
    void* found = _aligned_malloc(bytes, 64);
#else
    void* found = nullptr;
    if (posix_memalign(&found, 64, bytes) != 0) found = nullptr;
#endif
    return found;
}
inline void free_aligned(void* memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}
struct Free {
    void operator()(uint8_t* memory) const { free_aligned(memory); }
};

// Floats at a multiple of 64 bytes, zero at first, with a vector's room behind the last.
class AlignedVector {
public:
    AlignedVector() = default;
    AlignedVector(AlignedVector&& other) noexcept : data_(other.data_), size_(other.size_) {
        other.data_ = nullptr;
        other.size_ = 0;
    }
    AlignedVector(const AlignedVector&) = delete;
    AlignedVector& operator=(const AlignedVector&) = delete;
    ~AlignedVector() { free_aligned(data_); }

    bool assign(size_t count) { // false without memory, and all is as it was
        float* fresh = (float*)allocate_aligned(count * sizeof(float));
        if (!fresh) return false;
        memset(fresh, 0, count * sizeof(float) + 64);
        free_aligned(data_);
        data_ = fresh;
        size_ = count;
        return true;
    }
    float* data() { return data_; }
    const float* data() const { return data_; }
    size_t size() const { return size_; }
    float& operator[](size_t i) { return data_[i]; }
    const float& operator[](size_t i) const { return data_[i]; }

private:
    float* data_ = nullptr;
    size_t size_ = 0;
};

// Zeroed blocks that live as long as the arena, in huge pages where the system has them; null without memory.
class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        for (auto& chunk : chunks_) release(chunk.first, chunk.second);
    }
    size_t bytes() const { return taken_; }

    uint8_t* get(size_t bytes) {
        bytes = align_up(bytes + SLACK, 64);
        if (used_ + bytes > capacity_ && !grow(bytes)) return nullptr;
        uint8_t* found = current_ + used_;
        used_ += bytes;
        taken_ += bytes;
        return found;
    }

private:
    static constexpr size_t SLACK = 64, HUGE_PAGE = (size_t)2 << 20;
#if defined(__linux__)
    static constexpr size_t CHUNK = (size_t)64 << 20; // what is not touched takes no memory, but for the last huge page
#else
    static constexpr size_t CHUNK = (size_t)16 << 20;
#endif

    bool grow(size_t bytes) {
        const size_t capacity = align_up(std::max(bytes, CHUNK), HUGE_PAGE);
#if defined(__linux__)
        const size_t total = capacity + HUGE_PAGE;
        void* memory = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return false;
        current_ = (uint8_t*)align_up((size_t)memory, HUGE_PAGE);
        madvise(current_, capacity, MADV_HUGEPAGE);
#else
        const size_t total = capacity;
        void* memory = allocate_aligned(capacity);
        if (!memory) return false;
        memset(memory, 0, capacity);
        current_ = (uint8_t*)memory;
#endif
        chunks_.push_back({memory, total});
        capacity_ = capacity;
        used_ = 0;
        return true;
    }
    static void release(void* memory, size_t bytes) {
#if defined(__linux__)
        munmap(memory, bytes);
#else
        (void)bytes;
        free_aligned(memory);
#endif
    }

    std::vector<std::pair<void*, size_t>> chunks_;
    uint8_t* current_ = nullptr;
    size_t used_ = 0, capacity_ = 0, taken_ = 0;
};

} // namespace roost
