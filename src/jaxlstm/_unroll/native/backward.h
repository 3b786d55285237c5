// All of time backwards: from the cotangents of the results to those of all that entered.
#pragma once
#include "call.h"

namespace {

void run_backward(XLA_FFI_CallFrame* frame) {
  Buffers given(frame);
  Part reversed = given.in();
  auto& x = given.arg();
  long time = x.dims[1], batch = x.dims[2], input = x.dims[3];
  Part all_xs = Buffers::part(x, 4), all_w = given.in();
  auto& recurrent = given.arg();
  long hidden = recurrent.dims[1];
  Part all_r = Buffers::part(recurrent, 4), all_own = given.in();
  Part all_before[FIELDS], all_gates[Gates::GROUPS] = {}, all_dlast[FIELDS], all_dstate[FIELDS], all_dinitial[FIELDS];
  for (auto& s : all_before) s = given.in();
  for (int g = 0; g < Gates::GROUPS; g++)
    if (Gates::count(g)) all_gates[g] = given.in();
  Part all_dys = given.in();
  for (auto& s : all_dlast) s = given.in();
  Part all_mask = given.flags(), all_reset = given.flags();
  Part all_dxs = given.optional(), all_dw = given.optional(), all_db = given.optional();
  Part all_dr = given.optional(), all_dother_b = given.optional(), all_down = given.optional();
  long members = ((XLA_FFI_Buffer*)frame->rets.rets[given.out])->dims[0];
  for (auto& s : all_dstate) s = given.result();
  for (auto& s : all_dinitial) s = given.result();

  // The gates' cotangents stay in the cache: after a block of steps they are multiplied into those
  // of the weights and of the inputs.  They have two places in turn, since another part may still be
  // made of the one when the next is written.
  long block = std::max(1L, std::min(time, 256 / std::max(batch, 1L)));
  Plan plan(members, batch * hidden * (OF_H ? hidden * OF_H : input * OF_X), hidden, time);
  int parts = plan.parts;
  long rows = block * batch, most = Share::most(hidden, parts);
  size_t turn = Gates::size(rows, most);
  size_t to_inputs = all_dxs.data ? lines(Packed::size(hidden, input)) : 0;
  size_t copies = lines(Transposed::size(rows, input)) + PHASES * lines(Transposed::size(rows, hidden));
  size_t each =
      OF_H * lines(Packed::size(hidden, most)) + lines(Packed::size(rows, most)) + copies + lines(most) +
      lines(OWN * most) + (PHASES > 1 ? lines(batch * most) : 0);
  size_t operands = (PHASES - 1) * lines(rows * hidden);  // of a block, in two places too
  size_t of_member = parts * (each + 2 * turn) + OF_X * to_inputs + 2 * operands;
  Room room(members * of_member);
  float* place = room.begin();

  // Step 0 packs. Then a step has the first products of the one before it in this order, which is the
  // later one in time, and the cotangents of its own gates; then its other products, the last one
  // first. The last step has products alone.
  in_steps(plan.threads, members, time * PHASES + 2, parts, [=](long member, int part, long number) {
    bool reverse = *(int32_t*)reversed.of(member);
    const float *xs = all_xs.of(member), *w = all_w.of(member), *r = all_r.of(member);
    const float* of_units = all_own.of(member);
    Fields before, dlast, dstate, dinitial;
    for (int f = 0; f < FIELDS; f++) {
      before[f] = all_before[f].of(member), dlast[f] = all_dlast[f].of(member);
      dstate[f] = all_dstate[f].of(member), dinitial[f] = all_dinitial[f].of(member);
    }
    Gates gates = Gates::of(all_gates, member, hidden);
    const float* dys = all_dys.of(member);
    const uint8_t *mask = all_mask.flags(member), *reset = all_reset.flags(member);
    float *dxs = all_dxs.of(member), *dw = all_dw.of(member), *db = all_db.of(member);
    float *dr = all_dr.of(member), *dother_b = all_dother_b.of(member);
    float* down = all_down.of(member);
    float *own = place + member * of_member, *turns = own + parts * each;
    float *inputs = turns + 2 * parts * turn, *all_operands = inputs + OF_X * to_inputs;

    auto share = [&](int i) { return Share(time, batch, hidden, reverse, i, parts); };
    auto cotangents = [&](long n, int of) {
      Scratch scratch(turns + (n / block % 2 * parts + of) * turn);
      return Gates::in(scratch, rows, share(of).units());
    };
    Share mine = share(part);
    Scratch scratch(own + part * each);
    float *columns = scratch.take(Packed::size(rows, mine.units())), *totals = scratch.take(most);
    float *copy_of_xs = scratch.take(Transposed::size(rows, input)), *copies_of_h[PHASES];
    for (auto& copy : copies_of_h) copy = scratch.take(Transposed::size(rows, hidden));
    float* own_totals = scratch.take(OWN * most);  // of a block
    float* doperand = PHASES > 1 ? scratch.take(batch * most) : nullptr;
    auto operand_of = [&](long n, int call) {
      return all_operands + n / block % 2 * operands + (call - 1) * lines(rows * hidden);
    };
    Packed to_h[OF_H + 1], to_x[OF_X + 1];  // C++ has no empty array
    for (int i = 0; i < OF_H; i++) to_h[i] = scratch.packed(hidden, mine.units());
    for (int i = 0; i < OF_X && dxs; i++) to_x[i] = Packed(inputs + i * to_inputs, hidden, input);

    if (number == 0) {
      for (int i = 0; i < OF_H; i++)
        to_h[i].pack({r + mine.from * RECURRENT * hidden + FROM_H[i] * hidden, 1, RECURRENT * hidden});
      for (int i = part; i < OF_X && dxs; i += parts)
        to_x[i].pack({w + FROM_X[i] * hidden, 1, GATES * hidden});
      mine.start(nullptr, 0, dinitial, dlast, dstate);
      for (auto* s : dinitial) mine.clear(s, batch);
      if (dr) {
        mine.clear(dw, input * GATES), mine.clear(db, GATES);
        mine.clear(dr, hidden * RECURRENT), mine.clear(dother_b, RECURRENT);
        mine.clear(down, OWN), std::memset(own_totals, 0, 4 * OWN * most);
      }
      return;
    }

    // A block's part of the cotangents of the weights: `before`, transposed, times those of the
    // gates, of these units.
    auto to_weights = [&](long n, long first, long count) {
      Gates dgates = cotangents(n, part);
      Transposed of_xs, of_h[PHASES];
      if (OF_X) of_xs = Transposed(xs + first * batch * input, copy_of_xs, count, input);
      for (int call = 0; call < PHASES && OF_H; call++) {
        const float* from = call ? operand_of(n, call) : before[0] + first * batch * hidden;
        of_h[call] = Transposed(from, copies_of_h[call], count, hidden);
      }
      for (int i = 0; i < SLOTS; i++) {
        Packed panel(columns, count, mine.units());
        panel.pack(dgates.from(i, 0));
        mine.vectors([&](int u, int lanes) {
          V total = {};
          for (long row = 0; row < count; row++)
            total += load(dgates.at(i, row) + u - mine.from, lanes);
          store(totals + u - mine.from, total, lanes);
        });
        auto add = [&](const Transposed& a, float* weight, float* bias, int gate, int all) {
          float *to = weight + gate * hidden + mine.from, *sum = bias + gate * hidden + mine.from;
          panel.add_to(a, to, all * hidden);
          for (int u = 0; u < mine.units(); u++) sum[u] += totals[u];
        };
        if (i < OF_X) add(of_xs, dw, db, FROM_X[i], GATES);
        int h = h_of_slot(i);
        if (h >= 0) add(of_h[CALL_OF_SLOT[i]], dr, dother_b, FROM_H[h], RECURRENT);
      }
    };
    auto to_own_weights = [&] {
      for (int k = 0; k < OWN; k++)
        for (int u = 0; u < mine.units(); u++)
          down[k * hidden + mine.from + u] += std::exchange(own_totals[k * most + u], 0);
    };
    // And its part of the inputs' cotangents: of some rows, over all units.
    auto to_xs = [&](long n, long first, long count) {
      long from = count * part / parts, to = count * (part + 1) / parts;
      float* at = dxs + (first * batch + from) * input;
      std::memset(at, 0, 4 * (to - from) * input);
      for (int j = 0; j < parts; j++)
        for (int i = 0; i < OF_X; i++)
          to_x[i].part(share(j).from, share(j).units())
              .add_to(to - from, cotangents(n, j).from(i, from), at, input);
    };
    auto begin_of = [&](long n) { return n / block * block; };
    auto first_of = [&](long n) {
      long begin = begin_of(n), steps = std::min(block, time - begin);
      return reverse ? time - begin - steps : begin;
    };

    // The cotangents of what a product is made of, of these units.
    auto through = [&](long n, int call, float* to, long stride) {
      for (int j = 0; j < parts; j++)
        for (int i = 0; i < OF_H; i++)
          if (CALL_OF_H[i] == call)
            to_h[i].part(share(j).from, share(j).units())
                .add_to(batch, cotangents(n, j).from(SLOT_OF_H[i], (mine.step(n) - first_of(n)) * batch),
                        to, stride);
    };
    // Adds up those of the equations' weights.
    auto add_own = [&](const V* d, int u, int lanes) {
      for (int k = 0; k < OWN && dr; k++) {
        float* total = own_totals + k * most + u - mine.from;
        store(total, load(total, lanes) + d[k], lanes);
      }
    };

    int call = (PHASES - (number - 1) % PHASES) % PHASES;
    if (call == 0 && number > 1) {
      long n = time - (number - 1) / PHASES, t = mine.step(n), begin = begin_of(n), first = first_of(n);
      long steps = std::min(block, time - begin);
      through(n, 0, dstate[0] + mine.from, hidden);
      for (long row = 0; reset && row < batch; row++)
        if (reset[t * batch + row])
          for (int f = 0; f < FIELDS; f++)
            for (long u = row * hidden + mine.from; u < row * hidden + mine.to; u++) {
              dinitial[f][u] += dstate[f][u];
              dstate[f][u] = 0;
            }
      if (n == begin && dr) to_weights(n, first, steps * batch), to_own_weights();
      if (n == begin && dxs) to_xs(n, first, steps * batch);
    }
    long n = time - 1 - (number - 1) / PHASES;
    if (n < 0) return;

    long t = mine.step(n), first = first_of(n);
    Gates dgates = cotangents(n, part);
    if (call) {
      std::memset(doperand, 0, 4 * batch * most);
      through(n, call, doperand, most);
    }
    for (long row = 0; row < batch; row++) {
      bool masked = mask && !mask[t * batch + row];
      long at = (t * batch + row) * hidden;
      const float* z[SLOTS];
      float* dz[SLOTS];
      for (int i = 0; i < SLOTS; i++) {
        z[i] = gates.at(i, t * batch + row);
        dz[i] = dgates.at(i, (t - first) * batch + row) - mine.from;
      }
      mine.vectors([&](int u, int lanes) {
        V old[FIELDS], gate[SLOTS], weights[OWN + 1], ds[FIELDS], out[FIELDS + SLOTS + OWN] = {};
        for (int f = 0; f < FIELDS; f++) ds[f] = load(dstate[f] + row * hidden + u, lanes);
        if (!masked || call) {
          for (int f = 0; f < FIELDS; f++) old[f] = load(before[f] + at + u, lanes);
          for (int i = 0; i < SLOTS; i++) gate[i] = load(z[i] + u, lanes);
          for (int k = 0; k < OWN; k++) weights[k] = load(of_units + k * hidden + u, lanes);
        }
        if (call) {
          V made, d = load(doperand + row * most + u - mine.from, lanes);
          operand(call, old, gate, weights, &made);
          store(operand_of(n, call) + ((t - first) * batch + row) * hidden + u, made, lanes);
          if (masked) return;
          operand_back(call, old, gate, weights, &d, out);
          for (int f = 0; f < FIELDS; f++) store(dstate[f] + row * hidden + u, ds[f] + out[f], lanes);
          for (int i = 0; i < SLOTS; i++)  // others read those of later products
            if (CALL_OF_SLOT[i] < call)
              store(dz[i] + u, load(dz[i] + u, lanes) + out[FIELDS + i], lanes);
          return add_own(out + FIELDS + SLOTS, u, lanes);
        }
        ds[0] += load(dys + at + u, lanes);
        if (!masked) new_state_back(old, gate, weights, ds, out);
        add_own(out + FIELDS + SLOTS, u, lanes);
        for (int f = 0; f < FIELDS; f++)
          store(dstate[f] + row * hidden + u, masked ? ds[f] : out[f], lanes);
        for (int i = 0; i < SLOTS; i++) store(dz[i] + u, out[FIELDS + i], lanes);
      });
    }
  });
}

}  // namespace
