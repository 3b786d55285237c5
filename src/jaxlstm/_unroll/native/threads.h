// Threads that share out the units, and their barrier.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "product.h"

class alignas(64) Barrier {
  const int count;
  std::atomic<int> waiting{0}, round{0};

 public:
  explicit Barrier(int count) : count(count) {}
  void wait() {
    if (count == 1) return;
    int now = round.load(std::memory_order_relaxed);
    if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      waiting.store(0, std::memory_order_relaxed);
      round.store(now + 1, std::memory_order_release);
      return;
    }
    for (int i = 0; round.load(std::memory_order_acquire) == now; i++)
      if (i > 4096) std::this_thread::yield();  // somebody else has our core
  }
};

// How many threads: no more than cores, than panels of units, or than the work of a step fills.
static inline int threads_for(long work, int units, int time) {
  int cores = std::max(1u, std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set)) cores = CPU_COUNT(&set);
#endif
  if (work * time < 1 << 21) return 1;  // starting a thread would take as long
  return (int)std::max(1L, std::min({(long)cores, (long)panels(units), work >> 16}));
}

// Each thread gets cores of its own while it works.  Else a new one may begin on its maker's core, or
// its maker be moved to its core, and they share it for milliseconds, each waiting for the other in
// every step.
class Cores {
#ifdef __linux__
  cpu_set_t allowed;
  int here, threads;
  bool known;

  // Every so many of the allowed cores, for thread 0 among them the one that it is on.
  cpu_set_t of(int thread) const {
    cpu_set_t some;
    CPU_ZERO(&some);
    for (int core = 0, at = 0; core < CPU_SETSIZE; core++)
      if (CPU_ISSET(core, &allowed) && (at++ + threads - here) % threads == thread)
        CPU_SET(core, &some);
    return some;
  }

 public:
  explicit Cores(int threads) : here(0), threads(threads) {
    int now = sched_getcpu();
    known = threads > 1 && now >= 0 && !sched_getaffinity(0, sizeof allowed, &allowed) &&
            CPU_COUNT(&allowed) >= threads;
    if (!known) return;
    for (int core = 0; core < now; core++) here += !!CPU_ISSET(core, &allowed);
    here %= threads;
    cpu_set_t mine = of(0);
    known = !sched_setaffinity(0, sizeof mine, &mine);  // a sandbox may refuse it
  }
  ~Cores() {
    if (known) sched_setaffinity(0, sizeof allowed, &allowed);
  }
  void give(int thread, pthread_attr_t* made) const {
    if (!known) return;
    cpu_set_t some = of(thread);
    pthread_attr_setaffinity_np(made, sizeof some, &some);
  }
#else
 public:
  explicit Cores(int) {}
  void give(int, pthread_attr_t*) const {}
#endif
};

// Threads that are there before the work is shared out, since there may be fewer than were asked
// for: a machine may refuse any.  All of them treat numbers below the normal ones as XLA has told
// the first to: as zero.
class Team {
  struct Member {
    Team* team;
    int thread;
  };
  typedef void Job(const void*, int);
  std::vector<Member> members;
  std::vector<pthread_t> others;
  std::atomic<bool> begun{false};
  Job* job = nullptr;
  const void* work = nullptr;
  unsigned mode = 0;
  Cores cores;

  static void* member(void* self) {
    auto [team, thread] = *(Member*)self;
    while (!team->begun.load(std::memory_order_acquire)) std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(team->mode);
#endif
    if (team->job) team->job(team->work, thread);
    return nullptr;
  }
  template <class F>
  static void call(const void* f, int thread) {
    F own = *(const F*)f;
    own(thread);
  }
  bool add(int thread) {
    pthread_t one;
    pthread_attr_t made;
    bool there = false;
    if (!pthread_attr_init(&made)) {
      cores.give(thread, &made);
      there = !pthread_create(&one, &made, member, &members[thread]);
      pthread_attr_destroy(&made);
    }
    there = there || !pthread_create(&one, nullptr, member, &members[thread]);
    if (there) others.push_back(one);
    return there;
  }
  void finish() {
    begun.store(true, std::memory_order_release);
    if (job) job(work, 0);
    for (auto& thread : others) pthread_join(thread, nullptr);
    others.clear();
  }

 public:
  explicit Team(int count) : cores(count) {
#if defined(__x86_64__)
    mode = __builtin_ia32_stmxcsr();
#endif
    for (int i = 0; i < count; i++) members.push_back({this, i});
    others.reserve(count);
    for (int i = 1; i < count && add(i); i++) {
    }
  }
  ~Team() { finish(); }  // where no work came
  Team(const Team&) = delete;
  int size() const { return others.size() + 1; }

  template <class F>
  void run(F f) {
    work = &f, job = call<F>;
    finish();
    job = nullptr;
  }
};
