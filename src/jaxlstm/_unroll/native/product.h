// Products with a matrix that is packed once and used in every step.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "pages.h"
#include "vector.h"

constexpr int PANEL = 2 * LANES;  // columns that lie together, row after row
constexpr int DEPTH = 256;        // rows of a panel that stay in the first cache
constexpr int AHEAD = 64;         // rows of a panel between what is used and what is prefetched

static inline int panels(int columns) { return (columns + PANEL - 1) / PANEL; }

// Keeps a value in a register; else it is loaded anew for each of its uses, and loads are what
// bounds a tile.
static inline V hold(V x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}

// Entry (i, k) of a matrix is at[i * by_row + k * by_column].
struct Matrix {
  const float* at;
  long by_row, by_column;
  Matrix from(long i, long k) const { return {at + i * by_row + k * by_column, by_row, by_column}; }
};

// c (MR, NP panels) += a (MR, depth) b; KU sums side by side where a row alone would wait for
// its own sum.
template <int MR, int NP, int KU>
static inline void tile(int depth, Matrix a, const float* b, long next, float* c, long ldc) {
  V sum[KU][MR][2 * NP] = {};
  auto add = [&](int k, int u) {
    if (NP == 1) __builtin_prefetch(b + (long)(k + AHEAD) * PANEL);
    V row[2 * NP];
    for (int j = 0; j < 2 * NP; j++) {
      row[j] = load(b + (j / 2) * next + (long)k * PANEL + (j % 2) * LANES);
      if (MR > 1) row[j] = hold(row[j]);
    }
    for (int i = 0; i < MR; i++) {
      V x = all(a.at[i * a.by_row + k * a.by_column]);
      for (int j = 0; j < 2 * NP; j++) sum[u][i][j] += x * row[j];
    }
  };
  int k = 0;
  for (; k + KU <= depth; k += KU)
    for (int u = 0; u < KU; u++) add(k + u, u);
  for (; k < depth; k++) add(k, 0);
#pragma GCC unroll 8  // else the sums go through memory
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 8
    for (int j = 0; j < 2 * NP; j++) {
      V total = sum[0][i][j];
      for (int u = 1; u < KU; u++) total += sum[u][i][j];
      float* at = c + i * ldc + j * LANES;
      store(at, load(at) + total);
    }
}

// As `tile`, for `columns` of c, which may end inside a panel.
template <int MR, int NP, int KU>
static inline void part(int depth, Matrix a, const float* b, long next, float* c, long ldc,
                        int columns) {
  if (columns >= NP * PANEL) return tile<MR, NP, KU>(depth, a, b, next, c, ldc);
  float whole[MR * NP * PANEL] = {};
  tile<MR, NP, KU>(depth, a, b, next, whole, NP * PANEL);
  for (int i = 0; i < MR; i++)
    for (int j = 0; j < columns; j++) c[i * ldc + j] += whole[i * NP * PANEL + j];
}

// As many panels at once as give eight to twelve sums.
template <int MR>
static void rows_of(int depth, Matrix a, const float* b, long next, float* c, long ldc,
                    int columns) {
  constexpr int NP = MR == 1 ? 4 : MR <= 3 ? 2 : 1;
  int j = 0;
  for (; columns - j > (NP - 1) * PANEL; j += NP * PANEL, b += NP * next)
    part<MR, NP, 1>(depth, a, b, next, c + j, ldc, columns - j);
  for (; j < columns; j += PANEL, b += next)
    part<MR, 1, MR == 1 ? 4 : 1>(depth, a, b, next, c + j, ldc, columns - j);
}

static inline size_t lines(size_t floats) { return (floats + 15) / 16 * 16; }  // of the cache

// The rows of a product in blocks of nearly equal height.
constexpr int HEIGHT = 6;  // at most
static inline long blocks_of(long n) { return (n + HEIGHT - 1) / HEIGHT; }
static inline long start_of(long block, long n) { return n * block / blocks_of(n); }

// A matrix (rows, columns) that is multiplied transposed.  As it lies, each row of a tile's columns is
// a line of the cache, and where rows are wide these lines push each other out of it: then the columns
// of each block of the product are copied to lie together.
struct Transposed {
  const float* at = nullptr;  // the matrix, or its copy
  int rows = 0, columns = 0;

  static bool copied(int columns) { return columns >= 256; }
  static size_t size(int rows, int columns) {
    return copied(columns) ? (size_t)blocks_of(columns) * rows * HEIGHT : 0;
  }
  Transposed() = default;
  Transposed(const float* from, float* room, int rows, int columns)
      : at(copied(columns) ? room : from), rows(rows), columns(columns) {
    if (!copied(columns)) return;
    for (long block = 0; block < blocks_of(columns); block++) {
      long first = start_of(block, columns), width = start_of(block + 1, columns) - first;
      float* to = room + block * rows * HEIGHT;
      for (long k = 0; k < rows; k++)
        if (width == HEIGHT)
          std::memcpy(to + k * HEIGHT, from + k * columns + first, sizeof(float) * HEIGHT);
        else
          std::memcpy(to + k * HEIGHT, from + k * columns + first, sizeof(float) * width);
    }
  }
  // A block's part, from row k on.
  Matrix from(long block, long k) const {
    if (copied(columns)) return {at + (block * rows + k) * HEIGHT, 1, HEIGHT};
    return {at + k * columns + start_of(block, columns), 1, columns};
  }
};

// A packed matrix: panel after panel, each (rows, PANEL), the last filled up with zeros.
struct Packed {
  float* data = nullptr;
  int rows = 0, columns = 0;
  long next = 0;  // from panel to panel

  Packed() = default;
  static size_t size(int rows, int columns) { return (size_t)panels(columns) * rows * PANEL; }
  Packed(float* data, int rows, int columns)
      : data(data), rows(rows), columns(columns), next((long)rows * PANEL) {}

  // Some of its rows.
  Packed part(int first, int count) const {
    Packed p(data + (long)first * PANEL, count, columns);
    p.next = next;
    return p;
  }

  // As m lies: a few rows of all panels, or, where it is a transposed matrix, of each column at once.
  void pack(Matrix m) const {
    int deep = m.by_column == 1 ? 8 : 64;
    if (columns % PANEL) std::memset(data + columns / PANEL * next, 0, 4L * rows * PANEL);
    for (int first = 0; first < rows; first += deep)
      for (int p = 0; p < panels(columns); p++) {
        int width = std::min(PANEL, columns - p * PANEL), end = std::min(first + deep, rows);
        Matrix from = m.from(0, p * PANEL);
        float* to = data + p * next;
        if (m.by_column == 1)
          for (int k = first; k < end; k++)
            for (int j = 0; j < width; j += LANES)
              store(to + (long)k * PANEL + j, load(from.at + k * m.by_row + j, width - j), width - j);
        else
          for (int j = 0; j < width; j++)
            for (int k = first; k < end; k++)
              to[(long)k * PANEL + j] = from.at[k * m.by_row + j * m.by_column];
      }
  }

  // c (n, columns) += a (n, rows) times this.
  void add_to(int n, Matrix a, float* c, long ldc) const {
    add_to(n, c, ldc, [=](long, long first, long k) { return a.from(first, k); });
  }

  // c (n, columns) += the transpose of a (rows, n) times this.
  void add_to(const Transposed& a, float* c, long ldc) const {
    add_to(a.columns, c, ldc, [=](long block, long, long k) { return a.from(block, k); });
  }

 private:
  // `a` finds the rows of a block, which is one of `blocks_of(n)`, from column k on.
  template <class A>
  void add_to(int n, float* c, long ldc, A a) const {
    long blocks = blocks_of(n);
    int group = n > 3 ? PANEL : columns;  // few rows: several panels side by side
    for (int j = 0; j < columns; j += group) {
      for (int k = 0; k < rows; k += DEPTH) {
        int depth = std::min(DEPTH, rows - k);
        const float* b = data + j / PANEL * next + (long)k * PANEL;
        int width = std::min(group, columns - j);
        for (long block = 0, i = 0, end; block < blocks; block++, i = end) {
          end = start_of(block + 1, n);
          Matrix at = a(block, i, k);
          float* to = c + i * ldc + j;
          switch (end - i) {
            case 1: rows_of<1>(depth, at, b, next, to, ldc, width); break;
            case 2: rows_of<2>(depth, at, b, next, to, ldc, width); break;
            case 3: rows_of<3>(depth, at, b, next, to, ldc, width); break;
            case 4: rows_of<4>(depth, at, b, next, to, ldc, width); break;
            case 5: rows_of<5>(depth, at, b, next, to, ldc, width); break;
            case 6: rows_of<6>(depth, at, b, next, to, ldc, width); break;
          }
        }
      }
    }
  }
};

constexpr long FEW = 8;  // rows, of all steps, for which a matrix is not packed

// c (columns) += some of a row's values, times as many rows of b.
template <int ROWS>
static inline void some_rows(int columns, const float* a, long by_column, Matrix b, float* c) {
  V x[ROWS];
  for (int u = 0; u < ROWS; u++) x[u] = all(a[u * by_column]);
  auto add = [&](int j, int lanes) {
    V sum = load(c + j, lanes);
    for (int u = 0; u < ROWS; u++) sum += x[u] * load(b.at + u * b.by_row + j, lanes);
    store(c + j, sum, lanes);
  };
  int j = 0;
  for (; j + LANES <= columns; j += LANES) add(j, LANES);
  if (j < columns) add(j, columns - j);
}

// c (n, columns) += a (n, rows) b, of which b (rows, columns) is multiplied as it lies, four of its
// rows at once: eight took longer.
static void add_as_it_lies(long n, long rows, int columns, Matrix a, Matrix b, float* c, long ldc) {
  for (long k = 0; k < rows; k += 4)
    for (long i = 0; i < n; i++) {
      Matrix of_b = b.from(k, 0);
      const float* x = a.from(i, k).at;
      float* to = c + i * ldc;
      switch (rows - k) {
        case 1: some_rows<1>(columns, x, a.by_column, of_b, to); break;
        case 2: some_rows<2>(columns, x, a.by_column, of_b, to); break;
        case 3: some_rows<3>(columns, x, a.by_column, of_b, to); break;
        default: some_rows<4>(columns, x, a.by_column, of_b, to);
      }
    }
}

// Room for packed matrices, kept from call to call: fresh pages cost more than a small product.
class Room {
  struct Kept {
    std::mutex lock;
    float* data = nullptr;
    size_t size = 0;
  };
  static Kept& kept() {
    static Kept one;
    return one;
  }
  float* data = nullptr;
  size_t size = 0;

 public:
  explicit Room(size_t floats) : size(floats) {
    {
      std::lock_guard<std::mutex> hold(kept().lock);
      if (kept().size >= floats) {
        std::swap(data, kept().data);
        std::swap(size, kept().size);
        kept().size = 0;
      }
    }
    if (!data) {
      void* p = nullptr;
      if (posix_memalign(&p, 64, std::max<size_t>(floats, 1) * sizeof(float)))
        throw std::bad_alloc();
      data = (float*)p;
      size = floats;
      ask_for_large_pages(data, 4 * size);
    }
  }
  ~Room() {
    std::lock_guard<std::mutex> hold(kept().lock);
    if (size > kept().size) {
      std::swap(data, kept().data);
      std::swap(size, kept().size);
    }
    std::free(data);
  }
  Room(const Room&) = delete;
  float* begin() const { return data; }
};

// Takes one array after the other from such room.
class Scratch {
  float* next;

 public:
  explicit Scratch(float* begin) : next(begin) {}
  float* take(size_t floats) {
    float* p = next;
    next += lines(floats);
    return p;
  }
  Packed packed(int rows, int columns) {
    return Packed(take(Packed::size(rows, columns)), rows, columns);
  }
};
