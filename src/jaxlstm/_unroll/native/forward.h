// All of time forwards.
#pragma once
#include "call.h"

namespace {

// With `keep`, what the way back needs of every step is a result too.
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
  Gates kept{{}, hidden};
  if (keep) {
    for (auto& s : before) s = given.result();
    for (int g = 0; g < 3; g++)
      if (Gates::count(g)) kept.base[g] = given.result();
  }

  // Inputs are multiplied for several steps at once, so that there are rows enough; what comes
  // of it is used before it leaves the cache.
  long ahead = std::max(1L, std::min(time, 48 / std::max(batch, 1L)));
  Team team(threads_for(batch * hidden * (input * OF_X + hidden * OF_H), hidden, time));
  int threads = team.size();
  long rows = ahead * batch, most = Share::most(hidden, threads);
  size_t each = Gates::size(rows, most) + OF_X * lines(Packed::size(input, most)) +
                OF_H * lines(Packed::size(hidden, most)) + lines(SLOTS * most);
  Room room(threads * each + (keep ? 0 : 2 * FIELDS * lines(batch * hidden)));
  float* place = room.begin();
  Fields turns[2];
  if (!keep) {
    Scratch shared(place + threads * each);
    for (auto& turn : turns)
      for (auto& s : turn) s = shared.take(batch * hidden);
  }
  Barrier barrier(threads);

  team.run([=, &barrier](int thread) {
    Share mine(time, batch, hidden, reverse, thread, threads);
    Scratch scratch(place + thread * each);
    Gates gates = Gates::in(scratch, rows, mine.units());
    Packed of_x[OF_X + 1], of_h[OF_H + 1];  // C++ has no empty array
    for (int i = 0; i < OF_X; i++) {
      of_x[i] = scratch.packed(input, mine.units());
      of_x[i].pack({w + FROM_X[i] * hidden + mine.from, GATES * hidden, 1});
    }
    for (int i = 0; i < OF_H; i++) {
      of_h[i] = scratch.packed(hidden, mine.units());
      of_h[i].pack({r + FROM_H[i] * hidden + mine.from, RECURRENT * hidden, 1});
    }
    float* biases = scratch.take(SLOTS * mine.units());
    for (int u = 0; u < mine.units(); u++) {
      float* bias = biases + u;
      for (int i = 0; i < SLOTS; i++) bias[i * mine.units()] = 0;
      for (int i = 0; i < OF_X; i++)
        bias[i * mine.units()] += b[FROM_X[i] * hidden + mine.from + u];
      for (int i = 0; i < OF_H; i++)
        bias[slot_of_h(i) * mine.units()] += recurrent_b[FROM_H[i] * hidden + mine.from + u];
    }

    auto before_step = [&](long n, float** at) {
      for (int f = 0; f < FIELDS; f++)
        at[f] = keep ? before[f] + mine.step(n) * batch * hidden : turns[n % 2][f];
    };
    Fields s, next;
    if (time) {  // else there is no state before a step, nor room for one
      before_step(0, s);
      mine.start(reset, mine.step(0), initial, state, s);
    }
    barrier.wait();

    long base = 0, begun = 0;  // the step that the gates begin with, and up to which they are
    for (long n = 0; n < time; n++) {
      long t = mine.step(n);
      if (n == begun) {
        long steps = std::min(ahead, time - n);
        base = reverse ? t - steps + 1 : t;
        begun = n + steps;
        for (int i = 0; i < SLOTS; i++)
          for (long row = 0; row < steps * batch; row++)
            std::memcpy(gates.at(i, row), biases + i * mine.units(), 4 * mine.units());
        for (int i = 0; i < OF_X; i++)
          of_x[i].add_to(steps * batch, {xs + base * batch * input, input, 1}, gates.at(i, 0),
                         gates.stride(i));
      }
      before_step(n, s);
      for (int i = 0; i < OF_H; i++)
        of_h[i].add_to(batch, {s[0], hidden, 1}, gates.at(slot_of_h(i), (t - base) * batch),
                       gates.stride(slot_of_h(i)));

      float* const* after = last;
      if (n + 1 < time) before_step(n + 1, next), after = next;
      for (long row = 0; row < batch; row++) {
        bool held = mask && !mask[t * batch + row];
        bool anew = reset && n + 1 < time && reset[mine.step(n + 1) * batch + row];
        const float* z[SLOTS];
        float* to_keep[SLOTS];
        for (int i = 0; i < SLOTS; i++) {
          z[i] = gates.at(i, (t - base) * batch + row) - mine.from;
          if (keep) to_keep[i] = kept.at(i, t * batch + row);
        }
        mine.vectors([&](int u, int lanes) {
          V old[FIELDS], gate[SLOTS], fresh[FIELDS];
          for (int f = 0; f < FIELDS; f++) old[f] = load(s[f] + row * hidden + u, lanes);
          for (int i = 0; i < SLOTS; i++) {
            gate[i] = load(z[i] + u, lanes);
            const float* bias = biases + i * mine.units() - mine.from;
            if (keep) store(to_keep[i] + u, held ? load(bias + u, lanes) : gate[i], lanes);
          }
          forward(old, gate, fresh);
          for (int f = 0; f < FIELDS; f++) {
            if (held) fresh[f] = old[f];
            store(after[f] + row * hidden + u,
                  anew ? load(initial[f] + row * hidden + u, lanes) : fresh[f], lanes);
          }
          store(ys + (t * batch + row) * hidden + u, fresh[0], lanes);
        });
      }
      barrier.wait();
      // A held step is kept for the way back as one from the initial state, whose inputs are zero:
      // the state may be NaN, which times a cotangent of zero is NaN.
      for (long row = 0; keep && mask && row < batch; row++)
        if (!mask[t * batch + row])
          for (int f = 0; f < FIELDS; f++)
            std::memcpy(s[f] + row * hidden + mine.from, initial[f] + row * hidden + mine.from,
                        4 * mine.units());
    }
    if (!time) mine.start(nullptr, 0, initial, state, last);
  });
}

}  // namespace
