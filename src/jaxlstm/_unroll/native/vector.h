// Vectors of float, as GCC and Clang know them, and the functions that equations are made of.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t M __attribute__((vector_size(4 * LANES)));  // a truth a lane, or an integer
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

static inline V all(float x) { return x - V{}; }
static inline V load(const float* p) { return *(const Unaligned*)p; }
static inline void store(float* p, V x) { *(Unaligned*)p = x; }

// The first n lanes; the others are zero.
static inline V load(const float* p, int n) {
  if (n >= LANES) return load(p);
  V x = {};
  std::memcpy(&x, p, 4 * n);
  return x;
}
static inline void store(float* p, V x, int n) {
  if (n >= LANES) return store(p, x);
  std::memcpy(p, &x, 4 * n);
}

// Comparisons with NaN are false, so each of these hands a NaN on, as JAX does.
static inline V where(M m, V a, V b) { return m ? a : b; }
static inline V max(V a, V b) { return a != a ? a : (b > a || b != b) ? b : a; }
static inline V min(V a, V b) { return a != a ? a : (b < a || b != b) ? b : a; }
static inline V abs(V x) { return (V)((M)x & 0x7fffffff); }
static inline V sign(V x) { return x > 0 ? all(1) : x < 0 ? all(-1) : x; }

static inline V sqrt(V x) {
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

// exp(r) - 1, after Cephes: a polynomial in r, where x = n log 2 + r and n is an integer.
static inline V expm1_of_rest(V x, V& n) {
  n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to an integer
  V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V y = all(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  return y * r * r + r;
}
// From 0, for -127, to infinity, for 128.
static inline V power_of_two(M n) { return (V)((n + 127) << 23); }
static inline V power_of_two(V n) { return power_of_two(__builtin_convertvector(n, M)); }

// To 1 unit in the last place.
static inline V exp(V x) {
  x = x < -104.0f ? all(-104.0f) : x > 89.0f ? all(89.0f) : x;
  V n, y = expm1_of_rest(x, n) + 1.0f;
  M whole = __builtin_convertvector(n, M), half = whole >> 1;
  return y * power_of_two(half) * power_of_two(whole - half);  // neither overflows
}

// log, after Cephes: x = m 2^n with m near 1, and a polynomial in m - 1.
static inline V log(V x) {
  M n = ((M)x - 0x3f3504f3) >> 23;  // so that m begins at the square root of 1/2
  V m = (V)((M)x - (n << 23)) - 1.0f, z = m * m, e = __builtin_convertvector(n, V);
  V y = all(7.0376836292e-2f);
  y = y * m - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = (y * m * z - 2.12194440e-4f * e) - 0.5f * z + m + 0.693359375f * e;
  // x is normal between these, of which XLA takes what is smaller for zero.
  y = x < 1.17549435e-38f ? all(-__builtin_inff()) : y;
  y = x < 0 ? all(__builtin_nanf("")) : y;
  return x < __builtin_inff() ? y : x;
}

// The error of 1 + x, or of exp(x), is that of its logarithm too (Kahan).
static inline V log1p(V x) {
  V u = 1.0f + x, y = log(u) * (x / (u - 1.0f));
  y = u == __builtin_inff() ? u : y;
  return u == 1.0f ? x : y;
}
static inline V expm1(V x) {
  V u = exp(x), less = u - 1.0f, y = less * (x / log(u));
  y = (M)(less == -1.0f) | (M)(u == __builtin_inff()) ? less : y;
  return u == 1.0f ? x : y;
}

// 1 / (1 + exp(-x)). Below -88.4 exp(-x) is infinite here: the result would be smaller than a normal
// number, which XLA takes for zero.
static inline V logistic(V x) {
  x = x < -88.8f ? all(-88.8f) : x > 88.0f ? all(88.0f) : x;
  V n, y = expm1_of_rest(-x, n) + 1.0f;
  return 1.0f / (1.0f + y * power_of_two(n));
}

// m / (m + 2) with m = exp(2 |x|) - 1, and the sign of x. To 2.3 units in the last place.
static inline V tanh(V x) {
  V a = 2.0f * abs(x);
  a = a > 20.0f ? all(20.0f) : a;
  V n, y = expm1_of_rest(a, n), power = power_of_two(n), m = y * power + (power - 1.0f);
  return (V)((M)(m / (m + 2.0f)) | ((M)x & (M)all(-0.0f)));
}
