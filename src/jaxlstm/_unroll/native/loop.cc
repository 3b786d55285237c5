// The loop over time, forwards and backwards, for one cell's equations.
//
// Before this file stands what `_source.py` makes of the cell: the counts and places of its gates;
// `new_state`, its equations; `operand`, what a product after the first of a step is made of; and
// the transposed derivatives of both.
//
// The units of a member are shared out in parts: each packs the columns of w and r that make its
// gates, and a step of time is begun when all parts of the one before it are done, since its product
// needs all of h. Any thread may do any part.
#include <string>

#include "backward.h"
#include "forward.h"

namespace {

// What cannot be done is an error of the call, and not the end of the process.
template <class F>
XLA_FFI_Error* handled(XLA_FFI_CallFrame* frame, F run) {
  if (answered_metadata(frame)) return nullptr;
  std::string message;
  auto code = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
  try {
    return run(), nullptr;
  } catch (const std::invalid_argument& error) {
    message = error.what(), code = XLA_FFI_Error_Code_INVALID_ARGUMENT;
  } catch (const std::bad_alloc&) {
    message = "found no memory for what the kernel keeps of the weights.";
  } catch (...) {
    message = "the kernel failed.";
  }
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message.c_str();
  args.errc = code;
  return frame->api->XLA_FFI_Error_Create(&args);
}

}  // namespace

extern "C" {
// All libraries of a process have the threads of one.
void* threads_of(void* other) {
  if (other) Pool::shared() = (Pool*)other;
  return Pool::shared().load();
}
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
