// The loop over time of a gated cell, forwards and backwards, for one cell's equations.
//
// Before this file stands what `_source.py` makes of the cell: the counts and places of its
// gates, and `forward` and `backward`, its equations and their transposed derivative.
//
// Every thread has some of the units: it packs the columns of w and r that make their gates, and
// does all of time for them. After each step the threads wait for each other, since the next
// product needs all of h.
#include "call.h"

namespace {

void run_forward(XLA_FFI_CallFrame* frame, bool keep) {
  Buffers given(frame);
  bool reverse = *(int32_t*)given.arg().data;
  auto& x = given.arg();
  long time = x.dims[0], batch = x.dims[1], input = x.dims[2];
  const float* xs = (float*)x.data;
  auto& weight = given.arg();
  long hidden = weight.dims[2];
  const float *w = (float*)weight.data, *b = given.in(), *r = given.in(), *recurrent_b = given.in();
  Fields state, initial, last, before;
  for (auto& s : state) s = given.in();
  for (auto& s : initial) s = given.in();
  const uint8_t *mask = given.flags(), *reset = given.flags();
  float* ys = given.result();
  for (auto& s : last) s = given.result();
  Gates gates{{}, hidden};
  if (keep) {
    for (auto& s : before) s = given.result();
    for (int g = 0; g < 3; g++)
      if (Gates::count(g)) gates.base[g] = given.result();
  }

  // Inputs are multiplied for several steps at once, so that there are rows enough; what comes
  // of it is used before it leaves the cache.
  long ahead = std::max(1L, std::min(time, 48 / std::max(batch, 1L)));
  long work = batch * hidden * (input * OF_X + hidden * OF_H);
  int threads = threads_for(work, hidden, time);
  size_t rows = ahead * batch, one = lines(batch * hidden);
  size_t need = 0;
  for (int i = 0; i < threads; i++) {
    int units = Share(time, batch, hidden, reverse, i, threads).units();
    need += OF_X * lines(Packed::size(input, units)) + OF_H * lines(Packed::size(hidden, units));
  }
  if (!keep) need += 3 * lines(rows * SLOTS * hidden) + 2 * FIELDS * one;
  need += lines(SLOTS * hidden);
  Room room(need);
  float* biases = room.take(SLOTS * hidden);
  Fields turns[2];
  if (!keep) {
    for (int g = 0; g < 3; g++) gates.base[g] = room.take(rows * Gates::count(g) * hidden);
    for (auto& turn : turns)
      for (auto& s : turn) s = room.take(one);
  }
  std::vector<Packed> packed;
  for (int i = 0; i < threads; i++) {
    int units = Share(time, batch, hidden, reverse, i, threads).units();
    for (int g = 0; g < OF_X + OF_H; g++) {
      int depth = g < OF_X ? input : hidden;
      packed.emplace_back(room.take(Packed::size(depth, units)), depth, units);
    }
  }
  const Packed* all_packed = packed.data();
  Barrier barrier(threads);

  in_parallel(threads, [=, &barrier](int thread) {
    Share mine(time, batch, hidden, reverse, thread, threads);
    const Packed *of_x = &all_packed[thread * (OF_X + OF_H)], *of_h = of_x + OF_X;
    for (int i = 0; i < OF_X; i++)
      of_x[i].pack(w + FROM_X[i] * hidden + mine.from, GATES * hidden, 1);
    for (int i = 0; i < OF_H; i++)
      of_h[i].pack(r + FROM_H[i] * hidden + mine.from, RECURRENT * hidden, 1);

    for (long u = mine.from; u < mine.to; u++) {
      for (int i = 0; i < SLOTS; i++) biases[i * hidden + u] = 0;
      for (int i = 0; i < OF_X; i++) biases[i * hidden + u] += b[FROM_X[i] * hidden + u];
      for (int i = 0; i < OF_H; i++)
        biases[slot_of_h(i) * hidden + u] += recurrent_b[FROM_H[i] * hidden + u];
    }

    auto before_step = [&](long n, float** at) {
      for (int f = 0; f < FIELDS; f++)
        at[f] = keep ? before[f] + mine.step(n) * batch * hidden : turns[n % 2][f];
    };
    Fields s, next;
    before_step(0, s);
    mine.start(reset, mine.step(0), initial, state, s);
    barrier.wait();

    long base = 0, begun = 0;  // the step that the kept gates begin with, and up to which they are
    for (long n = 0; n < time; n++) {
      long t = mine.step(n);
      if (n == begun) {
        long steps = std::min(ahead, time - n), first = reverse ? t - steps + 1 : t;
        base = keep ? 0 : first;
        begun = n + steps;
        for (int i = 0; i < SLOTS; i++)
          for (long row = 0; row < steps * batch; row++)
            std::memcpy(gates.at(i, (first - base) * batch + row) + mine.from,
                        biases + i * hidden + mine.from, 4 * mine.units());
        for (int i = 0; i < OF_X; i++)
          of_x[i].add_to(steps * batch, xs + first * batch * input, input,
                         gates.at(i, (first - base) * batch) + mine.from, gates.stride(i));
      }
      before_step(n, s);
      for (int i = 0; i < OF_H; i++)
        of_h[i].add_to(batch, s[0], hidden,
                       gates.at(slot_of_h(i), (t - base) * batch) + mine.from,
                       gates.stride(slot_of_h(i)));

      float* const* after = last;
      if (n + 1 < time) before_step(n + 1, next), after = next;
      for (long row = 0; row < batch; row++) {
        bool kept = mask && !mask[t * batch + row];
        bool anew = reset && n + 1 < time && reset[mine.step(n + 1) * batch + row];
        const float* z[SLOTS];
        for (int i = 0; i < SLOTS; i++) z[i] = gates.at(i, (t - base) * batch + row);
        mine.vectors([&](int u, int lanes) {
          V old[FIELDS], gate[SLOTS], fresh[FIELDS];
          for (int f = 0; f < FIELDS; f++) old[f] = load(s[f] + row * hidden + u, lanes);
          for (int i = 0; i < SLOTS; i++) gate[i] = load(z[i] + u, lanes);
          forward(old, gate, fresh);
          for (int f = 0; f < FIELDS; f++) {
            if (kept) fresh[f] = old[f];
            store(after[f] + row * hidden + u,
                  anew ? load(initial[f] + row * hidden + u, lanes) : fresh[f], lanes);
          }
          store(ys + (t * batch + row) * hidden + u, fresh[0], lanes);
        });
      }
      barrier.wait();
    }
    if (!time)
      for (int f = 0; f < FIELDS; f++) mine.start(nullptr, 0, initial, state, last);
  });
}

void run_backward(XLA_FFI_CallFrame* frame) {
  Buffers given(frame);
  bool reverse = *(int32_t*)given.arg().data;
  const float* r = given.in();
  Fields before, dlast, dstate, dinitial;
  for (auto& s : before) s = given.in();
  Gates gates{{}, 0}, dgates{{}, 0};
  for (int g = 0; g < 3; g++)
    if (Gates::count(g)) gates.base[g] = given.in();
  auto& d = given.arg();
  long time = d.dims[0], batch = d.dims[1], hidden = d.dims[2];
  gates.hidden = dgates.hidden = hidden;
  const float* dys = (float*)d.data;
  for (auto& s : dlast) s = given.in();
  const uint8_t *mask = given.flags(), *reset = given.flags();
  for (int g = 0; g < 3; g++)
    if (Gates::count(g)) dgates.base[g] = given.result();  // in the place of the gates
  for (auto& s : dstate) s = given.result();
  for (auto& s : dinitial) s = given.result();

  int threads = threads_for(batch * hidden * hidden * OF_H, hidden, time);
  size_t need = 0;
  for (int i = 0; i < threads; i++)
    need += OF_H * lines(Packed::size(hidden, Share(time, batch, hidden, reverse, i, threads).units()));
  Room room(need);
  std::vector<Packed> packed;
  for (int i = 0; i < threads; i++) {
    int units = Share(time, batch, hidden, reverse, i, threads).units();
    for (int g = 0; g < OF_H; g++)
      packed.emplace_back(room.take(Packed::size(hidden, units)), hidden, units);
  }
  const Packed* all_packed = packed.data();
  Barrier barrier(threads);

  in_parallel(threads, [=, &barrier](int thread) {
    Share mine(time, batch, hidden, reverse, thread, threads);
    const Packed* across = &all_packed[thread * OF_H];
    for (int i = 0; i < OF_H; i++)
      across[i].pack(r + mine.from * RECURRENT * hidden + FROM_H[i] * hidden, 1, RECURRENT * hidden);
    mine.start(nullptr, 0, dinitial, const_cast<float**>(dlast), dstate);
    for (auto* s : dinitial)
      for (long row = 0; row < batch; row++) std::memset(s + row * hidden + mine.from, 0, 4 * mine.units());

    for (long n = time - 1; n >= 0; n--) {
      long t = mine.step(n);
      for (long row = 0; row < batch; row++) {
        bool kept = mask && !mask[t * batch + row];
        long at = (t * batch + row) * hidden;
        const float* z[SLOTS];
        float* dz[SLOTS];
        for (int i = 0; i < SLOTS; i++) {
          z[i] = gates.at(i, t * batch + row);
          dz[i] = dgates.at(i, t * batch + row);
        }
        mine.vectors([&](int u, int lanes) {
          V old[FIELDS], gate[SLOTS], ds[FIELDS], out[FIELDS + SLOTS] = {};
          for (int f = 0; f < FIELDS; f++) ds[f] = load(dstate[f] + row * hidden + u, lanes);
          ds[0] += load(dys + at + u, lanes);
          if (!kept) {
            for (int f = 0; f < FIELDS; f++) old[f] = load(before[f] + at + u, lanes);
            for (int i = 0; i < SLOTS; i++) gate[i] = load(z[i] + u, lanes);
            backward(old, gate, ds, out);
          }
          for (int f = 0; f < FIELDS; f++)
            store(dstate[f] + row * hidden + u, kept ? ds[f] : out[f], lanes);
          for (int i = 0; i < SLOTS; i++) store(dz[i] + u, out[FIELDS + i], lanes);
        });
      }
      barrier.wait();
      for (int i = 0; i < OF_H; i++)
        across[i].add_to(batch, dgates.at(slot_of_h(i), t * batch), dgates.stride(slot_of_h(i)),
                         dstate[0] + mine.from, hidden);
      for (long row = 0; reset && row < batch; row++)
        if (reset[t * batch + row])
          for (int f = 0; f < FIELDS; f++)
            for (long u = row * hidden + mine.from; u < row * hidden + mine.to; u++) {
              dinitial[f][u] += dstate[f][u];
              dstate[f][u] = 0;
            }
    }
  });
}

}  // namespace

extern "C" {
XLA_FFI_Error* values(XLA_FFI_CallFrame* frame) {
  if (!asked(frame)) run_forward(frame, false);
  return nullptr;
}
XLA_FFI_Error* kept(XLA_FFI_CallFrame* frame) {
  if (!asked(frame)) run_forward(frame, true);
  return nullptr;
}
XLA_FFI_Error* back(XLA_FFI_CallFrame* frame) {
  if (!asked(frame)) run_backward(frame);
  return nullptr;
}
}
