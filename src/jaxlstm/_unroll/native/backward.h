// All of time backwards: from the cotangents of the results to those of all that entered.
#pragma once
#include "call.h"

namespace {

void run_backward(XLA_FFI_CallFrame* frame) {
  Buffers given(frame);
  bool reverse = *(int32_t*)given.arg().data;
  auto& x = given.arg();
  long time = x.dims[0], batch = x.dims[1], input = x.dims[2];
  const float *xs = (float*)x.data, *w = given.in();
  auto& recurrent = given.arg();
  long hidden = recurrent.dims[0];
  const float* r = (float*)recurrent.data;
  Fields before, dlast, dstate, dinitial;
  for (auto& s : before) s = given.in();
  Gates gates{{}, hidden};
  for (int g = 0; g < 3; g++)
    if (Gates::count(g)) gates.base[g] = given.in();
  const float* dys = given.in();
  for (auto& s : dlast) s = given.in();
  const uint8_t *mask = given.flags(), *reset = given.flags();
  float *dxs = given.wanted(), *dw = given.wanted(), *db = given.wanted();
  float *dr = given.wanted(), *drecurrent_b = given.wanted();
  for (auto& s : dstate) s = given.result();
  for (auto& s : dinitial) s = given.result();

  // The gates' cotangents stay in the cache: after a block of steps they are multiplied into those
  // of the weights and of the inputs.  They have two places in turn, since a thread may still read
  // the one when another writes the next.
  long block = std::max(1L, std::min(time, 256 / std::max(batch, 1L)));
  Team team(threads_for(batch * hidden * hidden * OF_H, hidden, time));
  int threads = team.size();
  long rows = block * batch, most = Share::most(hidden, threads);
  size_t turn = Gates::size(rows, most), to_inputs = dxs ? lines(Packed::size(hidden, input)) : 0;
  size_t each = OF_H * lines(Packed::size(hidden, most)) + lines(Packed::size(rows, most)) + lines(most);
  Room room(threads * (each + 2 * turn) + OF_X * to_inputs);
  float *place = room.begin(), *turns = place + threads * each;
  float* inputs = turns + 2 * threads * turn;
  Barrier barrier(threads);

  team.run([=, &barrier](int thread) {
    auto share = [&](int i) { return Share(time, batch, hidden, reverse, i, threads); };
    auto cotangents = [&](long n, int of) {
      Scratch scratch(turns + (n / block % 2 * threads + of) * turn);
      return Gates::in(scratch, rows, share(of).units());
    };
    Share mine = share(thread);
    Scratch scratch(place + thread * each);
    float *columns = scratch.take(Packed::size(rows, mine.units())), *totals = scratch.take(most);
    Packed to_h[OF_H + 1], to_x[OF_X + 1];  // C++ has no empty array
    for (int i = 0; i < OF_H; i++) {
      to_h[i] = scratch.packed(hidden, mine.units());
      to_h[i].pack({r + mine.from * RECURRENT * hidden + FROM_H[i] * hidden, 1, RECURRENT * hidden});
    }
    for (int i = 0; i < OF_X && dxs; i++) {
      to_x[i] = Packed(inputs + i * to_inputs, hidden, input);
      if (i % threads == thread) to_x[i].pack({w + FROM_X[i] * hidden, 1, GATES * hidden});
    }
    mine.start(nullptr, 0, dinitial, dlast, dstate);
    for (auto* s : dinitial) mine.clear(s, batch);
    if (dr) {
      mine.clear(dw, input * GATES), mine.clear(db, GATES);
      mine.clear(dr, hidden * RECURRENT), mine.clear(drecurrent_b, RECURRENT);
    }

    // A block's part of the cotangents of the weights: `before`, transposed, times those of the
    // gates, of these units.
    auto to_weights = [&](long n, long first, long count) {
      Gates dgates = cotangents(n, thread);
      for (int i = 0; i < SLOTS; i++) {
        Packed panel(columns, count, mine.units());
        panel.pack(dgates.from(i, 0));
        mine.vectors([&](int u, int lanes) {
          V total = {};
          for (long row = 0; row < count; row++)
            total += load(dgates.at(i, row) + u - mine.from, lanes);
          store(totals + u - mine.from, total, lanes);
        });
        auto add = [&](const float* from, long width, float* weight, float* bias, int gate, int all) {
          float *to = weight + gate * hidden + mine.from, *sum = bias + gate * hidden + mine.from;
          panel.add_to(width, {from + first * batch * width, 1, width}, to, all * hidden);
          for (int u = 0; u < mine.units(); u++) sum[u] += totals[u];
        };
        if (i < OF_X) add(xs, input, dw, db, FROM_X[i], GATES);
        int h = h_of_slot(i);
        if (h >= 0) add(before[0], hidden, dr, drecurrent_b, FROM_H[h], RECURRENT);
      }
    };
    // And its part of the inputs' cotangents: of some rows, over the units of every thread.
    auto to_xs = [&](long n, long first, long count) {
      long from = count * thread / threads, to = count * (thread + 1) / threads;
      float* at = dxs + (first * batch + from) * input;
      std::memset(at, 0, 4 * (to - from) * input);
      for (int j = 0; j < threads; j++)
        for (int i = 0; i < OF_X; i++)
          to_x[i].part(share(j).from, share(j).units())
              .add_to(to - from, cotangents(n, j).from(i, from), at, input);
    };

    for (long n = time - 1; n >= 0; n--) {
      long t = mine.step(n), begin = n / block * block, steps = std::min(block, time - begin);
      long first = reverse ? time - begin - steps : begin;
      Gates dgates = cotangents(n, thread);
      for (long row = 0; row < batch; row++) {
        bool held = mask && !mask[t * batch + row];
        long at = (t * batch + row) * hidden;
        const float* z[SLOTS];
        float* dz[SLOTS];
        for (int i = 0; i < SLOTS; i++) {
          z[i] = gates.at(i, t * batch + row);
          dz[i] = dgates.at(i, (t - first) * batch + row) - mine.from;
        }
        mine.vectors([&](int u, int lanes) {
          V old[FIELDS], gate[SLOTS], ds[FIELDS], out[FIELDS + SLOTS] = {};
          for (int f = 0; f < FIELDS; f++) ds[f] = load(dstate[f] + row * hidden + u, lanes);
          ds[0] += load(dys + at + u, lanes);
          if (!held) {
            for (int f = 0; f < FIELDS; f++) old[f] = load(before[f] + at + u, lanes);
            for (int i = 0; i < SLOTS; i++) gate[i] = load(z[i] + u, lanes);
            backward(old, gate, ds, out);
          }
          for (int f = 0; f < FIELDS; f++)
            store(dstate[f] + row * hidden + u, held ? ds[f] : out[f], lanes);
          for (int i = 0; i < SLOTS; i++) store(dz[i] + u, out[FIELDS + i], lanes);
        });
      }
      barrier.wait();
      for (int j = 0; j < threads; j++)
        for (int i = 0; i < OF_H; i++)
          to_h[i].part(share(j).from, share(j).units())
              .add_to(batch, cotangents(n, j).from(slot_of_h(i), (t - first) * batch),
                      dstate[0] + mine.from, hidden);
      for (long row = 0; reset && row < batch; row++)
        if (reset[t * batch + row])
          for (int f = 0; f < FIELDS; f++)
            for (long u = row * hidden + mine.from; u < row * hidden + mine.to; u++) {
              dinitial[f][u] += dstate[f][u];
              dstate[f][u] = 0;
            }
      if (n == begin && dr) to_weights(n, first, steps * batch);
      if (n == begin && dxs) to_xs(n, first, steps * batch);
    }
  });
}

}  // namespace
