// What is used of the system: threads, a lock, the clock. Of the C library alone, as nothing here throws: the library then
// needs no C++ runtime, which zig would compile for two minutes before it can link one.
#pragma once
#include <cstddef>
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace roost {

class Mutex {
public:
    Mutex();
    ~Mutex();
    Mutex(const Mutex&) = delete;
    Mutex& operator=(const Mutex&) = delete;
    void lock();
    void unlock();

private:
    friend class Condition;
#if defined(_WIN32)
    void* lock_ = nullptr; // SRWLOCK
#else
    pthread_mutex_t lock_;
#endif
};

class Guard {
public:
    explicit Guard(Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
    ~Guard() { mutex_.unlock(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

private:
    Mutex& mutex_;
};

class Condition {
public:
    Condition();
    ~Condition();
    Condition(const Condition&) = delete;
    Condition& operator=(const Condition&) = delete;
    void wait(Mutex& held); // may return without a reason
    void notify_all();

private:
#if defined(_WIN32)
    void* condition_ = nullptr; // CONDITION_VARIABLE
#else
    pthread_cond_t condition_;
#endif
};

class Thread {
public:
    bool start(void (*function)(void*), void* argument); // false: the system has no more; once only
    void join();                                          // of one that was started

private:
    void (*function_)(void*) = nullptr;
    void* argument_ = nullptr;
#if defined(_WIN32)
    static unsigned long __stdcall run(void* thread);
    void* handle_ = nullptr;
#else
    static void* run(void* thread);
    pthread_t handle_{};
#endif
};

void yield_thread();
double seconds_now(); // of a clock that is never put back

} // namespace roost
