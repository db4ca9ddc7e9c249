#include "system.h"

#include <cstdlib>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <sched.h>
#include <time.h>
#endif

namespace roost {

#if defined(_WIN32)
static_assert(sizeof(SRWLOCK) == sizeof(void*) && sizeof(CONDITION_VARIABLE) == sizeof(void*), "a pointer that is null at first");

Mutex::Mutex() = default;
Mutex::~Mutex() = default;
void Mutex::lock() { AcquireSRWLockExclusive((SRWLOCK*)&lock_); }
void Mutex::unlock() { ReleaseSRWLockExclusive((SRWLOCK*)&lock_); }

Condition::Condition() = default;
Condition::~Condition() = default;
void Condition::wait(Mutex& held) {
    SleepConditionVariableSRW((CONDITION_VARIABLE*)&condition_, (SRWLOCK*)&held.lock_, INFINITE, 0);
}
void Condition::notify_all() { WakeAllConditionVariable((CONDITION_VARIABLE*)&condition_); }

unsigned long __stdcall Thread::run(void* thread) {
    ((Thread*)thread)->function_(((Thread*)thread)->argument_);
    return 0;
}
bool Thread::start(void (*function)(void*), void* argument) {
    function_ = function, argument_ = argument;
    handle_ = CreateThread(nullptr, 0, run, this, 0, nullptr);
    return handle_ != nullptr;
}
void Thread::join() {
    WaitForSingleObject(handle_, INFINITE);
    CloseHandle(handle_);
}

void yield_thread() { SwitchToThread(); }
double seconds_now() {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
}
#else
Mutex::Mutex() { pthread_mutex_init(&lock_, nullptr); }
Mutex::~Mutex() { pthread_mutex_destroy(&lock_); }
void Mutex::lock() { pthread_mutex_lock(&lock_); }
void Mutex::unlock() { pthread_mutex_unlock(&lock_); }

Condition::Condition() { pthread_cond_init(&condition_, nullptr); }
Condition::~Condition() { pthread_cond_destroy(&condition_); }
void Condition::wait(Mutex& held) { pthread_cond_wait(&condition_, &held.lock_); }
void Condition::notify_all() { pthread_cond_broadcast(&condition_); }

void* Thread::run(void* thread) {
    ((Thread*)thread)->function_(((Thread*)thread)->argument_);
    return nullptr;
}
bool Thread::start(void (*function)(void*), void* argument) {
    function_ = function, argument_ = argument;
    return pthread_create(&handle_, nullptr, run, this) == 0;
}
void Thread::join() { pthread_join(handle_, nullptr); }

void yield_thread() { sched_yield(); }
double seconds_now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
#endif

} // namespace roost

// Built with zig (building.py), nothing of libc++ but its headers is there.
#if defined(ROOST_NO_CXX_RUNTIME)
static void* allocate_or_abort(size_t bytes) {
    void* found = malloc(bytes ? bytes : 1);
    if (!found) abort();
    return found;
}
void* operator new(size_t bytes) { return allocate_or_abort(bytes); }
void* operator new[](size_t bytes) { return allocate_or_abort(bytes); }
void operator delete(void* memory) noexcept { free(memory); }
void operator delete[](void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t) noexcept { free(memory); }
#endif
