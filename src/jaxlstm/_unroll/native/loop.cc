// The loop over time of a gated cell, forwards and backwards, for one cell's equations.
//
// Before this file stands what `_source.py` makes of the cell: the counts and places of its
// gates, and `forward` and `backward`, its equations and their transposed derivative.
//
// Every thread has some of the units: it packs the columns of w and r that make their gates, and
// does all of time for them. After each step the threads wait for each other, since the next
// product needs all of h.
#include "backward.h"
#include "forward.h"

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
