// All of time forwards.
#pragma once
#include "call.h"

namespace {

// With `keep`, the residuals of every step are results too.
void run_forward(XLA_FFI_CallFrame* frame, bool keep) {
  Buffers given(frame);
  Part reversed = given.in();
  auto& x = given.arg();
  long time = x.dims[1], batch = x.dims[2], input = x.dims[3];
  Part all_xs = Buffers::part(x, 4);
  auto& weight = given.arg();
  long hidden = weight.dims[3];
  Part all_w = Buffers::part(weight, 4), all_b = given.in(), all_r = given.in(), all_other_b = given.in();
  Part all_own = given.in();
  Part all_state[FIELDS], all_initial[FIELDS], all_last[FIELDS], all_before[FIELDS];
  Part all_stored[Gates::GROUPS] = {};
  for (auto& s : all_state) s = given.in();
  for (auto& s : all_initial) s = given.in();
  Part all_mask = given.flags(), all_reset = given.flags();
  auto& y = given.ret();
  long members = y.dims[0];
  Part all_ys = Buffers::part(y, 4);
  for (auto& s : all_last) s = given.result();
  if (keep) {
    for (auto& s : all_before) s = given.result();
    for (int g = 0; g < Gates::GROUPS; g++)
      if (Gates::count(g)) all_stored[g] = given.result();
  }

  // Inputs are multiplied for several steps at once, so that there are rows enough; what comes
  // of it is used before it leaves the cache.
  long ahead = std::max(1L, std::min(time, 48 / std::max(batch, 1L)));
  Plan plan(members, batch * hidden * (input * OF_X + hidden * OF_H), hidden, time);
  int parts = plan.parts;
  // For few rows packing a matrix would take longer than its use as it lies.
  bool pack = time * batch > FEW;
  long rows = ahead * batch, most = Share::most(hidden, parts);
  size_t packed =
      pack ? OF_X * lines(Packed::size(input, most)) + OF_H * lines(Packed::size(hidden, most)) : 0;
  size_t each = Gates::size(rows, most) + packed + lines(SLOTS * most);
  size_t turn = keep ? 0 : FIELDS * lines(batch * hidden);
  size_t operands = (PHASES - 1) * lines(batch * hidden), of_member = parts * each + 2 * turn + operands;
  Room room(members * of_member);
  float* place = room.begin();
  struct Begun {
    long base = 0, until = 0;  // the step that the gates begin with, and up to which they are
  };
  std::vector<Begun> all_begun(members * parts);
  Begun* begun_of = all_begun.data();

  // Step 0 packs; then come those of time, each with its products one after the other; a last one is
  // for what each leaves to the next.
  in_steps(plan.threads, members, time * PHASES + 2, parts, [=](long member, int part, long number) {
    bool reverse = *(int32_t*)reversed.of(member);
    const float *xs = all_xs.of(member), *w = all_w.of(member), *b = all_b.of(member);
    const float *r = all_r.of(member), *other_b = all_other_b.of(member);
    const float* of_units = all_own.of(member);
    Fields state, initial, last, before;
    for (int f = 0; f < FIELDS; f++) {
      state[f] = all_state[f].of(member), initial[f] = all_initial[f].of(member);
      last[f] = all_last[f].of(member), before[f] = keep ? all_before[f].of(member) : nullptr;
    }
    const uint8_t *mask = all_mask.flags(member), *reset = all_reset.flags(member);
    float* ys = all_ys.of(member);
    Gates stored = Gates::of(all_stored, member, hidden);
    float* own = place + member * of_member;

    Share mine(time, batch, hidden, reverse, part, parts);
    Scratch scratch(own + part * each);
    Gates gates = Gates::in(scratch, rows, mine.units());
    Packed of_x[OF_X + 1], of_h[OF_H + 1];  // C++ has no empty array
    for (int i = 0; i < OF_X && pack; i++) of_x[i] = scratch.packed(input, mine.units());
    for (int i = 0; i < OF_H && pack; i++) of_h[i] = scratch.packed(hidden, mine.units());
    float* biases = scratch.take(SLOTS * mine.units());
    auto x_lies = [&](int i) { return Matrix{w + FROM_X[i] * hidden + mine.from, GATES * hidden, 1}; };
    auto h_lies = [&](int i) {
      return Matrix{r + FROM_H[i] * hidden + mine.from, RECURRENT * hidden, 1};
    };
    Begun& begun = begun_of[member * parts + part];
    auto before_step = [&](long n, float** at) {
      for (int f = 0; f < FIELDS; f++)
        at[f] = keep ? before[f] + mine.step(n) * batch * hidden
                     : own + parts * each + n % 2 * turn + f * lines(batch * hidden);
    };
    // What the products of a step after its first are made of.
    auto operand_of = [&](int call) {
      return own + parts * each + 2 * turn + (call - 1) * lines(batch * hidden);
    };
    Fields s, next;

    if (number == 0) {
      for (int i = 0; i < OF_X && pack; i++) of_x[i].pack(x_lies(i));
      for (int i = 0; i < OF_H && pack; i++) of_h[i].pack(h_lies(i));
      for (int u = 0; u < mine.units(); u++) {
        float* bias = biases + u;
        for (int i = 0; i < SLOTS; i++) bias[i * mine.units()] = 0;
        for (int i = 0; i < OF_X; i++)
          bias[i * mine.units()] += b[FROM_X[i] * hidden + mine.from + u];
        for (int i = 0; i < OF_H; i++)
          bias[SLOT_OF_H[i] * mine.units()] += other_b[FROM_H[i] * hidden + mine.from + u];
      }
      if (time) {  // else there is no state before a step, nor room for one
        before_step(0, s);
        mine.start(reset, mine.step(0), initial, state, s);
      } else {
        mine.start(nullptr, 0, initial, state, last);
      }
      return;
    }

    long n = (number - 1) / PHASES, t = mine.step(n);
    int call = (number - 1) % PHASES;
    // A masked step is kept for the way back as one from the initial state, whose inputs are zero: the
    // state may be NaN, which times a cotangent of zero is NaN.
    if (keep && mask && n && call == 0) {
      before_step(n - 1, s);
      for (long row = 0; row < batch; row++)
        if (!mask[mine.step(n - 1) * batch + row])
          for (int f = 0; f < FIELDS; f++)
            std::memcpy(s[f] + row * hidden + mine.from, initial[f] + row * hidden + mine.from,
                        4 * mine.units());
    }
    if (n == time) return;

    if (n == begun.until) {  // at its first product
      long steps = std::min(ahead, time - n);
      begun.base = reverse ? t - steps + 1 : t;
      begun.until = n + steps;
      for (int i = 0; i < SLOTS; i++)
        for (long row = 0; row < steps * batch; row++)
          std::memcpy(gates.at(i, row), biases + i * mine.units(), 4 * mine.units());
      for (int i = 0; i < OF_X; i++) {
        Matrix rows_of_x{xs + begun.base * batch * input, input, 1};
        if (pack)
          of_x[i].add_to(steps * batch, rows_of_x, gates.at(i, 0), gates.stride(i));
        else
          add_as_it_lies(steps * batch, input, mine.units(), rows_of_x, x_lies(i), gates.at(i, 0),
                         gates.stride(i));
      }
    }
    before_step(n, s);
    long first = (t - begun.base) * batch;
    Matrix left{call ? operand_of(call) : s[0], hidden, 1};
    for (int i = 0; i < OF_H; i++) {
      if (CALL_OF_H[i] != call) continue;
      int slot = SLOT_OF_H[i];
      if (pack)
        of_h[i].add_to(batch, left, gates.at(slot, first), gates.stride(slot));
      else
        add_as_it_lies(batch, hidden, mine.units(), left, h_lies(i), gates.at(slot, first),
                       gates.stride(slot));
    }
    bool last_call = call + 1 == PHASES;

    float* const* after = last;
    if (n + 1 < time) before_step(n + 1, next), after = next;
    for (long row = 0; row < batch; row++) {
      bool masked = mask && !mask[t * batch + row];
      bool anew = reset && n + 1 < time && reset[mine.step(n + 1) * batch + row];
      const float* z[SLOTS];
      float* to_keep[SLOTS];
      for (int i = 0; i < SLOTS; i++) {
        z[i] = gates.at(i, first + row) - mine.from;
        if (keep && last_call) to_keep[i] = stored.at(i, t * batch + row);
      }
      mine.vectors([&](int u, int lanes) {
        V old[FIELDS], gate[SLOTS], weights[OWN + 1], fresh[FIELDS];
        for (int f = 0; f < FIELDS; f++) old[f] = load(s[f] + row * hidden + u, lanes);
        for (int i = 0; i < SLOTS; i++) gate[i] = load(z[i] + u, lanes);
        for (int k = 0; k < OWN; k++) weights[k] = load(of_units + k * hidden + u, lanes);
        if (!last_call) {
          V made;
          operand(call + 1, old, gate, weights, &made);
          store(operand_of(call + 1) + row * hidden + u, made, lanes);
          return;
        }
        for (int i = 0; i < SLOTS && keep; i++) {
          const float* bias = biases + i * mine.units() - mine.from;
          store(to_keep[i] + u, masked ? load(bias + u, lanes) : gate[i], lanes);
        }
        new_state(old, gate, weights, fresh);
        for (int f = 0; f < FIELDS; f++) {
          if (masked) fresh[f] = old[f];
          store(after[f] + row * hidden + u,
                anew ? load(initial[f] + row * hidden + u, lanes) : fresh[f], lanes);
        }
        store(ys + (t * batch + row) * hidden + u, fresh[0], lanes);
      });
    }
  });
}

}  // namespace
