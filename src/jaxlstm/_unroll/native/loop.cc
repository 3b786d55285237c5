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

namespace {

// What cannot be done is an error of the call, and not the end of the process.
template <class F>
XLA_FFI_Error* handled(XLA_FFI_CallFrame* frame, F run) {
  if (asked(frame)) return nullptr;
  const char* said;
  try {
    return run(), nullptr;
  } catch (const std::bad_alloc&) {
    said = "implementation=\"native\" found no memory for what it keeps of the weights.";
  } catch (...) {
    said = "implementation=\"native\" failed.";
  }
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = said;
  args.errc = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
  return frame->api->XLA_FFI_Error_Create(&args);
}

}  // namespace

extern "C" {
XLA_FFI_Error* values(XLA_FFI_CallFrame* frame) {
  return handled(frame, [=] { run_forward(frame, false); });
}
XLA_FFI_Error* residuals(XLA_FFI_CallFrame* frame) {
  return handled(frame, [=] { run_forward(frame, true); });
}
XLA_FFI_Error* back(XLA_FFI_CallFrame* frame) {
  return handled(frame, [=] { run_backward(frame); });
}
}
