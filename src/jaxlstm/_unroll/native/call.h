// What a call hands over, and which part of it a thread has.
#pragma once
#include "threads.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int SLOTS = SUMS + INPUTS + PRODUCTS;  // rows of preactivations of a step
constexpr int OF_X = SUMS + INPUTS;
constexpr int PHASES = CALLS > 1 ? CALLS : 1;  // of a step of time, one for each of its products
int h_of_slot(int slot) {
  for (int i = 0; i < OF_H; i++)
    if (SLOT_OF_H[i] == slot) return i;
  return -1;
}

// An array with an axis of members first, be it of one that all of them have.
struct Part {
  char* data;
  long stride;
  float* of(long member) const { return data ? (float*)(data + member * stride) : nullptr; }
  const uint8_t* flags(long member) const {
    return data ? (const uint8_t*)(data + member * stride) : nullptr;
  }
};

// `u + v`, `u` and `v` of gates that the equations take by their sum, or apart, and `v` of each
// product of a step: arrays of (rows, gates, units).
struct Gates {
  static constexpr int GROUPS = 2 + CALLS;
  float* base[GROUPS];
  long units;
  static int count(int group) { return group == 0 ? SUMS : group == 1 ? INPUTS : APART[group - 2]; }
  static int group(int slot, int& first) {
    int g = 0;
    for (first = 0; slot >= first + count(g); g++) first += count(g);
    return g;
  }
  long stride(int slot) const {
    int first;
    return count(group(slot, first)) * units;
  }
  float* at(int slot, long row) const {
    int first, g = group(slot, first);
    return base[g] + row * count(g) * units + (slot - first) * units;
  }
  static Gates of(const Part* parts, long member, long units) {
    Gates gates{{}, units};
    for (int g = 0; g < GROUPS; g++) gates.base[g] = parts[g].of(member);
    return gates;
  }
  Matrix from(int slot, long row) const { return {at(slot, row), stride(slot), 1}; }

  // Of one thread's units alone.  Were those of two threads side by side, each core would fetch
  // ahead the lines that the other writes.
  static size_t size(long rows, long units) {
    size_t all = 0;
    for (int g = 0; g < GROUPS; g++) all += lines(rows * count(g) * units);
    return all;
  }
  static Gates in(Scratch& scratch, long rows, long units) {
    Gates gates{{}, units};
    for (int g = 0; g < GROUPS; g++) gates.base[g] = scratch.take(rows * count(g) * units);
    return gates;
  }
};

typedef float* Fields[FIELDS];

// The units of one thread, and which step of time is the n-th to be done.
struct Share {
  long time, batch, hidden;
  int from, to;
  bool reverse;

  Share(long time, long batch, long hidden, bool reverse, int thread, int threads)
      : time(time), batch(batch), hidden(hidden), reverse(reverse) {
    int all = panels(hidden);
    from = std::min<long>(hidden, (long)all * thread / threads * PANEL);
    to = std::min<long>(hidden, (long)all * (thread + 1) / threads * PANEL);
  }
  int units() const { return to - from; }
  static long most(long hidden, int threads) { return ((long)panels(hidden) + threads - 1) / threads * PANEL; }
  long step(long n) const { return reverse ? time - 1 - n : n; }

  void clear(float* p, long rows) const {
    for (long row = 0; row < rows; row++) std::memset(p + row * hidden + from, 0, 4 * units());
  }
  template <class F>
  void vectors(F f) const {
    for (int u = from; u < to; u += LANES) f(u, std::min(LANES, to - u));
  }
  // The state that step t starts from: the one after the step before it, or, where it is reset,
  // the initial one.
  void start(const uint8_t* reset, long t, float* const* initial, float* const* after,
             float* const* before) const {
    for (long row = 0; row < batch; row++) {
      float* const* s = reset && reset[t * batch + row] ? initial : after;
      for (int f = 0; f < FIELDS; f++)
        std::memcpy(before[f] + row * hidden + from, s[f] + row * hidden + from, 4 * units());
    }
  }
};

struct Buffers {
  XLA_FFI_CallFrame* frame;
  int next = 0, out = 0;
  explicit Buffers(XLA_FFI_CallFrame* frame) : frame(frame) {}
  static Part part(const XLA_FFI_Buffer& b, long size) {
    long one = size;
    for (int i = 1; i < b.rank; i++) one *= b.dims[i];
    return {(char*)b.data, b.dims[0] == 1 ? 0 : one};
  }
  XLA_FFI_Buffer& arg() { return *(XLA_FFI_Buffer*)frame->args.args[next++]; }
  XLA_FFI_Buffer& ret() {
    auto& b = *(XLA_FFI_Buffer*)frame->rets.rets[out++];
    size_t bytes = 4;
    for (int i = 0; i < b.rank; i++) bytes *= b.dims[i];
    ask_for_large_pages(b.data, bytes);
    return b;
  }
  Part in() { return part(arg(), 4); }
  Part result() { return part(ret(), 4); }
  Part optional() {  // gradients that are not needed have no rows
    auto& b = ret();
    return b.dims[1] ? part(b, 4) : Part{nullptr, 0};
  }
  Part flags() {  // None comes as an array of no steps
    auto& b = arg();
    return b.dims[1] ? part(b, 1) : Part{nullptr, 0};
  }
};

// How the work of a call is shared out: members first, and then the units of each.
struct Plan {
  int threads, parts;
  Plan(long members, long work, long units, long time) {
    threads = threads_for(members * work, members * units, time);
    parts = std::max<long>(1, std::min<long>(threads / std::max(members, 1L), panels(units)));
    threads = std::max<long>(1, std::min<long>(threads, members * parts));
  }
};

// Before the first call XLA wants to know which interface a handler was built for.
bool answered_metadata(XLA_FFI_CallFrame* frame) {
  auto* base = frame->extension_start;
  if (!base || base->type != XLA_FFI_Extension_Metadata) return false;
  auto* metadata = ((XLA_FFI_Metadata_Extension*)base)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  metadata->traits = 0;
  return true;
}

}  // namespace
