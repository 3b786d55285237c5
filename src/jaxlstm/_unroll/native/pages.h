// Pages of 2 MiB for large arrays.
//
// XLA takes the temporary memory of a program from the system and gives it back after each call, so
// that all of its pages are made anew: by 4 KiB that was a quarter of a call with gradients.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

// Of an array alone, or of one beside others: so the pages at its ends are asked for whole.
static inline void ask_for_large_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t PAGE = 2 << 20;
  if (bytes < PAGE / 2) return;
  uintptr_t from = (uintptr_t)data / PAGE * PAGE;
  uintptr_t to = ((uintptr_t)data + bytes + PAGE - 1) / PAGE * PAGE;
  (void)madvise((void*)from, to - from, MADV_HUGEPAGE);  // where it is refused, small ones do
#endif
}
