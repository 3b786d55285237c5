// Threads that share out the work of a call: steps in a chain, each of parts that run at once.
//
// No thread is waited for that has not begun: whoever comes first takes the next part, be it another
// thread's own. So on a machine that is busy with other work a call takes what one thread takes, and
// not what the slowest of several does.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "product.h"

static inline void pause_a_little() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The processors that a thread may run on.
struct Processors {
#ifdef __linux__
  cpu_set_t set = {};
  bool known = !sched_getaffinity(0, sizeof set, &set);
  int count() const { return known ? CPU_COUNT(&set) : 0; }
  // Lets a thread run on these alone. Where that is refused, it runs where it ran.
  void give(pthread_t thread) const {
    if (known) (void)pthread_setaffinity_np(thread, sizeof set, &set);
  }
  Processors without_this() const {
    Processors others = *this;
    int here = sched_getcpu();
    if (here >= 0) CPU_CLR(here, &others.set);
    others.known = known && others.count();
    return others;
  }
#else
  int count() const { return 0; }
  void give(pthread_t) const {}
  Processors without_this() const { return *this; }
#endif
};

// Whether the system gave this thread's processor to another one since it was last asked.
static inline bool interrupted() {
#ifdef __linux__
  static thread_local long before = 0;
  rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage)) return true;
  return std::exchange(before, usage.ru_nivcsw) != usage.ru_nivcsw;
#else
  return true;
#endif
}

typedef std::chrono::steady_clock Clock;
constexpr std::chrono::microseconds PATIENCE{500};  // with a thread that is late with its part
constexpr std::chrono::milliseconds SOON{1}, AT_MOST{40};  // alone, before others are let in again

// A chain of steps. A part of a step is begun when all of the step before it is done.
class Chain {
  static constexpr int SPINS = 2000;  // some fifty microseconds
  struct alignas(64) Claim {
    std::atomic<long> next{0};  // the step of which this part is not begun
  };
  const long count;
  const int parts;
  std::vector<Claim> claims;
  alignas(64) std::atomic<long> done{0};  // parts, of all steps
  alignas(64) std::atomic<int> asleep{0};
  std::mutex lock;
  std::condition_variable bell;

  // How long that took, asleep.
  Clock::duration wait_for(long enough) {
    for (int i = 0; i < SPINS; i++) {
      if (done.load(std::memory_order_acquire) >= enough) return Clock::duration::zero();
      pause_a_little();
    }
    auto begun = Clock::now();
    std::unique_lock<std::mutex> hold(lock);
    asleep.fetch_add(1);
    bell.wait(hold, [&] { return done.load() >= enough; });
    asleep.fetch_sub(1);
    return Clock::now() - begun;
  }
  void add_done(long enough) {
    if (done.fetch_add(1) + 1 < enough || !asleep.load()) return;
    { std::lock_guard<std::mutex> hold(lock); }  // who looked before has gone to sleep
    bell.notify_all();
  }

 public:
  std::atomic<bool> begun{false};
  std::atomic<bool> broken{false};  // another thread's part took long, since it was interrupted
  Chain(long count, int parts) : count(count), parts(parts), claims(parts) {}
  bool finished() const { return done.load(std::memory_order_acquire) >= count * parts; }

  // Takes part in it to its end, or until `leave`: `f(part, step)`.  Calls `late` with the time that
  // another thread was waited for, where that was too long beside what this one's own part took,
  // and the other one did not run.  A part may take long otherwise: its pages are made.
  template <class Leave, class Late, class F>
  void join(int thread, Leave leave, Late late, F f) {
    for (long step; (step = done.load(std::memory_order_acquire) / parts) < count && !leave();) {
      auto begun = Clock::now();
      for (int k = 0; k < parts; k++) {
        int part = (thread + k) % parts;
        long expected = step;
        if (!claims[part].next.compare_exchange_strong(expected, step + 1)) continue;
        f(part, step);
        if (thread && Clock::now() - begun > PATIENCE && interrupted()) broken.store(true);
        add_done((step + 1) * parts);
      }
      auto own = Clock::now() - begun, waited = wait_for((step + 1) * parts);
      if (waited > PATIENCE && waited > own && broken.exchange(false)) late(waited);
    }
  }
  // Waits as long as another thread goes on with it.
  void watch() const {
    long before = -1, now;
    for (int i = 0; !finished() && i < 4 * SPINS; i++) {
      if ((now = done.load(std::memory_order_relaxed)) != before) i = 0, before = now;
      pause_a_little();
    }
  }
};

// What several threads are handed.  It lives as long as one of them may look at it.
struct Job {
  std::function<void(Job&, int)> run;
  unsigned mode = 0;  // of the caller, for numbers below the normal ones: XLA takes them for zero
  int others = 0;     // threads that may come
  int inside = 0;     // of them, those that have
  bool open = false;  // to those that have not
  int next = 1;
  Processors processors;  // of the caller
  std::atomic<bool> alone{true};  // since the processors, or the other threads, have other work
  Clock::time_point again{};      // until then
  std::vector<std::unique_ptr<Chain>> chains;
  bool finished() const {
    return std::all_of(chains.begin(), chains.end(), [](auto& chain) { return chain->finished(); });
  }
};

// The threads of a process, but for those that call.  They sleep between calls.
class Pool {
  std::mutex lock;
  std::condition_variable bell;
  std::shared_ptr<Job> now;  // the one that has them
  std::vector<pthread_t> threads;
  Clock::time_point opened{}, rest{};  // to others last, and alone until then
  int factor = 1;
  const pid_t process = getpid();

  static void* member(void* pool) {
    ((Pool*)pool)->serve();
    return nullptr;
  }
  void serve() {
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
      bell.wait(hold, [&] { return now && now->open && now->inside < now->others; });
      auto job = now;
      job->inside++;
      int thread = job->next++;
      hold.unlock();
      job->processors.give(pthread_self());
#if defined(__x86_64__)
      __builtin_ia32_ldmxcsr(job->mode);
#endif
      interrupted();
      job->run(*job, thread);
      hold.lock();
      job->inside--;
      if (job->finished()) job->open = false;
    }
  }
  void grow(int wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads of others
    while ((int)threads.size() < wanted) {
      pthread_t one;
      if (pthread_create(&one, nullptr, member, this)) break;  // the machine may refuse it
      pthread_detach(one);
      threads.push_back(one);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

 public:
  // That of all libraries of a process; in a child of `fork`, which has no threads yet, a new one.
  static std::atomic<Pool*>& shared() {
    static std::atomic<Pool*> one{new Pool};
    return one;
  }
  static Pool& here() {
    Pool* found = shared().load();
    if (found->process == getpid()) return *found;
    auto* made = new Pool;
    if (shared().compare_exchange_strong(found, made)) return *made;
    delete made;  // another thread of this process was first
    return *found;
  }

  // Lets others in, unless they are another call's or the machine is busy: then it may try again.
  void open(const std::shared_ptr<Job>& job) {
    {
      std::lock_guard<std::mutex> hold(lock);
      auto time = Clock::now();
      if (now && now != job) return void(job->again = time + SOON);
      if (time < rest) return void(job->again = rest);
      grow(job->others);
      // Linux may wake a thread on its waker's processor, where it waits for milliseconds.
      auto others = job->processors.without_this();
      for (pthread_t thread : threads) others.give(thread);
      now = job;
      job->open = true;
      opened = time;
      job->alone.store(false);
    }
    bell.notify_all();
  }
  // Continues alone, the longer the more was lost, and the more often what several did was not worth
  // it: so a busy machine costs little, and an interruption on a quiet one does not either.
  void close(Job& job, Clock::duration lost) {
    std::lock_guard<std::mutex> hold(lock);
    job.open = false;
    auto time = Clock::now();
    factor = time - opened > 4 * lost ? 1 : std::min(2 * factor, 8);
    job.again = rest = time + std::min<Clock::duration>(factor * lost, AT_MOST);
    job.alone.store(true);
  }
  // Calls the job here, and by so many others as come.  It returns when its chains are done.
  void run(const std::shared_ptr<Job>& job, int others) {
#if defined(__x86_64__)
    job->mode = __builtin_ia32_stmxcsr();
#endif
    job->others = others;
    open(job);
    job->run(*job, 0);
    std::lock_guard<std::mutex> hold(lock);
    job->open = false;  // who has not come need not
    if (now == job) now = nullptr;
  }
};

// What a group of processes may use of the processors, by its quota; 0 if it has none.
static inline int quota() {
  static const int found = [] {
    double least = 0;
    auto take = [&](const char* name, bool two) {
      std::FILE* file = std::fopen(name, "r");
      if (!file) return;
      double quota = 0, period = 100000;
      if (two ? std::fscanf(file, "%lf %lf", &quota, &period) >= 1
              : std::fscanf(file, "%lf", &quota) == 1) {
        double share = quota / period;
        if (share > 0 && (least == 0 || share < least)) least = share;
      }
      std::fclose(file);
    };
    take("/sys/fs/cgroup/cpu.max", true);                   // "max" is no number
    take("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", false);     // -1 is none
    return least > 0 ? std::max(1, (int)(least + 0.5)) : 0;
  }();
  return found;
}

// How many threads a process may use: of its processors, by its quota, and by JAXLSTM_THREADS.
static inline int allowed() {
  int count = Processors().count();
  if (!count) count = std::max(1u, std::thread::hardware_concurrency());  // which reads a file
#ifdef __linux__
  if (int most = quota()) count = std::min(count, most);
#endif
  const char* text = std::getenv("JAXLSTM_THREADS");
  if (!text || !*text) return count;
  char* end = nullptr;
  long number = std::strtol(text, &end, 10);
  if (*end || number < 1)
    throw std::invalid_argument("the environment variable JAXLSTM_THREADS must be a whole number from 1.");
  return (int)std::min<long>(count, number);
}

// How many threads: no more than are allowed, than panels of units, or than the work of a step fills.
static inline int threads_for(long work, long units, long time) {
  int most = allowed();
  if (work * time < 1 << 21) return 1;  // waking a thread would take as long
  long least = work * time < 1 << 24 ? 1 << 16 : 1 << 15;  // work of a thread in a step
  return (int)std::max(1L, std::min({(long)most, (long)panels(units), work / least}));
}

// Runs `f(member, part, step)` for all members, each of which is a chain of steps.
template <class F>
static void in_steps(int threads, long members, long count, int parts, F f) {
  if (threads == 1) {
    for (long member = 0; member < members; member++)
      for (long step = 0; step < count; step++)
        for (int part = 0; part < parts; part++) f(member, part, step);
    return;
  }
  auto job = std::make_shared<Job>();
  for (long i = 0; i < members; i++) job->chains.push_back(std::make_unique<Chain>(count, parts));
  std::weak_ptr<Job> same = job;  // it has this function, which must not have it
  job->run = [f, members, parts, same](Job& job, int thread) {
    auto& pool = Pool::here();
    auto leave = [&] {
      if (!job.alone.load(std::memory_order_relaxed)) return false;
      if (!thread && Clock::now() >= job.again) pool.open(same.lock());
      return thread > 0;
    };
    auto late = [&](Clock::duration lost) {
      if (!thread && !job.alone.load(std::memory_order_relaxed)) pool.close(job, lost);
    };
    auto join = [&](long member) {
      job.chains[member]->join(thread, leave, late,
                               [&](int part, long step) { f(member, part, step); });
    };
    for (long i = 0; i < members && !leave(); i++) {  // its own first
      long member = (thread + i) % members;
      if (parts > 1 ? i == 0 : !job.chains[member]->begun.exchange(true)) join(member);
    }
    for (long i = 0; i < members && !leave(); i++) {  // then what is left of those of others
      auto& chain = *job.chains[(thread + i) % members];
      if (parts == 1) chain.watch();
      if (!chain.finished()) join((thread + i) % members);
    }
  };
  Pool::here().run(job, threads - 1);
}
