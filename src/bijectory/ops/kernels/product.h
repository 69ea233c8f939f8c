// Products of small matrices that stay in the caches, with rows that may be limited to their first columns.
//
// A masked weight of an autoregressive network is, in the right order of columns, one whose rows end early: limit[i] says
// where row i ends. What lies behind is neither read nor written, so that a mask saves work instead of adding it.
// Vectors run along the columns of the right factor, whose leading dimension is a multiple of their length; or it has one column
// and the leading dimension 1: then they run along the rows of the left factor.
#pragma once
#include "scalar.h"

#if defined(__AVX512F__)
enum { BYTES = 64, TALL = 8 };  // bytes of a vector; rows of a tile
#elif defined(__AVX__)
enum { BYTES = 32, TALL = 4 };
#else
enum { BYTES = 16, TALL = 4 };
#endif

template <typename T> struct Lanes {
  typedef T V __attribute__((vector_size(BYTES)));
  enum { N = BYTES / sizeof(T) };
};
template <typename T> inline typename Lanes<T>::V get(const T *p) { typename Lanes<T>::V v; __builtin_memcpy(&v, p, sizeof v); return v; }
template <typename T> inline void put(T *p, typename Lanes<T>::V v) { __builtin_memcpy(p, &v, sizeof v); }
template <typename T> inline int whole(int n) { return (n + Lanes<T>::N - 1) / Lanes<T>::N * Lanes<T>::N; }

template <typename T> inline void add_scaled(T *to, T scale, const T *from, i64 n) {
  for (i64 i = 0; i < n; ++i) to[i] += scale * from[i];
}

// M rows and N vectors of a·b: a at (m, k) is a[m * row + k * col], rows end at limit[m] (none: at k1).
template <typename T, int M, int N>
inline void accumulate(typename Lanes<T>::V (*acc)[N], const T *a, i64 row, i64 col, const T *b, i64 ldb, int k1, const int *limit) {
  typedef typename Lanes<T>::V V;
  int lo = k1, hi = k1;
  if (limit) {
    lo = hi = limit[0];
    for (int m = 1; m < M; ++m) { lo = limit[m] < lo ? limit[m] : lo; hi = limit[m] > hi ? limit[m] : hi; }
  }
  int k = 0;
  for (; k < lo; ++k) {
    V v[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) v[j] = get(b + k * ldb + j * Lanes<T>::N);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[m][j] += a[m * row + k * col] * v[j];
  }
  for (; k < hi; ++k) {
    V v[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) v[j] = get(b + k * ldb + j * Lanes<T>::N);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const T s = k < limit[m] ? a[m * row + k * col] : T(0);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[m][j] += s * v[j];
    }
  }
}

// ---- one column: c = bias + a·b, with the row ends and strides of `product` ------------------------------------------------

template <typename T> inline T sum_of(typename Lanes<T>::V v) {
  T t[Lanes<T>::N];
  put(t, v);
#pragma GCC unroll 8
  for (int half = Lanes<T>::N / 2; half > 0; half /= 2)
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
}
// The first n lanes, zeros behind, whatever stood there.
template <typename T> inline typename Lanes<T>::V head(typename Lanes<T>::V v, int n) {
  typedef typename Bits<T>::I I __attribute__((vector_size(BYTES)));
  I lane;
#pragma GCC unroll 16
  for (int i = 0; i < Lanes<T>::N; ++i) lane[i] = i;
  return (typename Lanes<T>::V)((I)v & (lane < I{} + n));
}
// M rows; b can be read to the end of its last vector, a to `end`.
template <typename T, int M>
inline void dot_rows(T *c, const T *a, i64 row, const T *b, int k, const int *limit, const T *bias, i64 step, const T *end) {
  enum { L = Lanes<T>::N };
  typename Lanes<T>::V acc[M] = {};
  T rest[M] = {};
  int lo = k, hi = k;
  if (limit) {
    lo = hi = limit[0];
    for (int m = 1; m < M; ++m) { lo = limit[m] < lo ? limit[m] : lo; hi = limit[m] > hi ? limit[m] : hi; }
  }
  int i = 0;
  for (; i + L <= lo; i += L) {
    const typename Lanes<T>::V v = get(b + i);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) acc[m] += get(a + m * row + i) * v;
  }
  for (; i < hi; i += L) {
    if (a + (M - 1) * row + i + L <= end) {
      const typename Lanes<T>::V v = get(b + i);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) acc[m] += head<T>(get(a + m * row + i) * v, (limit ? limit[m] : k) - i);
    } else {
      for (int m = 0; m < M; ++m)
        for (int j = i; j < i + L && j < (limit ? limit[m] : k); ++j) rest[m] += a[m * row + j] * b[j];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) c[m] = (bias ? bias[m * step] : T(0)) + (sum_of<T>(acc[m]) + rest[m]);
}
template <typename T>
void product_one(T *c, const T *a, i64 row, const T *b, int rows, int k, const int *limit, const T *bias, i64 step) {
  const T *end = a + (rows - 1) * row + k;
  int r = 0;
#define ROWS(M)                                                                                                           \
  for (; r + M <= rows; r += M)                                                                                           \
    dot_rows<T, M>(c + r, a + r * row, row, b, k, limit ? limit + r : nullptr, bias ? bias + r * step : nullptr, step, end);
  ROWS(4) ROWS(1)
#undef ROWS
}

// ---- c = bias + a·b, c is (rows, n) with the leading dimension of b ---------------------------------------------------

template <typename T, int M, int N>
inline void plain_tile(T *c, const T *a, i64 row, const T *b, i64 ld, int k, const int *limit, const T *bias, i64 step) {
  typename Lanes<T>::V acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[m][j] = bias ? bias[m * step] + typename Lanes<T>::V{} : typename Lanes<T>::V{};
  accumulate<T, M, N>(acc, a, row, 1, b, ld, k, limit);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) put(c + m * ld + j * Lanes<T>::N, acc[m][j]);
}
template <typename T, int M>
inline void plain_rows(T *c, const T *a, i64 row, const T *b, i64 ld, int n, int k, const int *limit, const T *bias, i64 step) {
  enum { L = Lanes<T>::N };
  int j = 0;
  for (; j + 2 * L <= n; j += 2 * L) plain_tile<T, M, 2>(c + j, a, row, b + j, ld, k, limit, bias, step);
  for (; j < n; j += L) plain_tile<T, M, 1>(c + j, a, row, b + j, ld, k, limit, bias, step);
}
// Rows of a lie `row` apart; biases and limits of successive rows lie `step` apart for biases, next to each other for limits.
template <typename T>
void product(T *c, const T *a, i64 row, const T *b, i64 ld, int n, int rows, int k, const int *limit, const T *bias, i64 step) {
  if (ld == 1) { product_one(c, a, row, b, rows, k, limit, bias, step); return; }
  int r = 0;
#define ROWS(M)                                                                                                           \
  for (; r + M <= rows; r += M)                                                                                           \
    plain_rows<T, M>(c + r * ld, a + r * row, row, b, ld, n, k, limit ? limit + r : nullptr, bias ? bias + r * step : nullptr, step);
  ROWS(TALL) ROWS(4) ROWS(2) ROWS(1)
#undef ROWS
}

// ---- c = transpose(a)·b: what a layer hands back to its input ----------------------------------------------------------

template <typename T, int M, int N>
inline void back_tile(T *c, const T *a, i64 k, const T *b, i64 ld, int from, int to, const int *limit, int first) {
  typedef typename Lanes<T>::V V;
  V acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[m][j] = from ? get(c + m * ld + j * Lanes<T>::N) : V{};
  for (int i = from; i < to; ++i) {
    const int open = limit ? limit[i] - first : int(M);  // columns of the tile that row i reaches
    if (open <= 0) continue;
    V v[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) v[j] = get(b + i * ld + j * Lanes<T>::N);
    if (open >= M) {
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) acc[m][j] += a[i * k + m] * v[j];
    } else {
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const T s = m < open ? a[i * k + m] : T(0);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) acc[m][j] += s * v[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) put(c + m * ld + j * Lanes<T>::N, acc[m][j]);
}
template <typename T, int M>
inline void back_rows(T *c, const T *a, i64 k, const T *b, i64 ld, int n, int from, int to, const int *limit, int first) {
  enum { L = Lanes<T>::N };
  int j = 0;
  for (; j + 2 * L <= n; j += 2 * L) back_tile<T, M, 2>(c + j, a, k, b + j, ld, from, to, limit, first);
  for (; j < n; j += L) back_tile<T, M, 1>(c + j, a, k, b + j, ld, from, to, limit, first);
}
// a is (rows, k), b (rows, n), c (k, n).
template <typename T> void product_back(T *c, const T *a, const T *b, i64 ld, int n, int rows, int k, const int *limit) {
  if (ld == 1) {
    for (int m = 0; m < k; ++m) c[m] = 0;
    for (int r = 0; r < rows; ++r) add_scaled(c, b[r], a + i64(r) * k, limit ? limit[r] : k);
    return;
  }
  enum { SHARE = 96 };  // rows of b that stay in the first-level cache
  for (int from = 0; from < rows; from += SHARE) {
    const int to = from + SHARE < rows ? from + SHARE : rows;
    int m = 0;
#define COLUMNS(M) for (; m + M <= k; m += M) back_rows<T, M>(c + m * ld, a + m, k, b, ld, n, from, to, limit, m);
    COLUMNS(TALL) COLUMNS(4) COLUMNS(2) COLUMNS(1)
#undef COLUMNS
  }
}

// ---- c += a·transpose(b): the gradient of a weight ---------------------------------------------------------------------

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#endif
#endif
template <typename T> inline void transpose_four(T *to, i64 ldt, const T *from, i64 ld) {
#ifdef SHUFFLES
  typedef T Q __attribute__((vector_size(4 * sizeof(T))));
  Q a, b, c, d;
  __builtin_memcpy(&a, from, sizeof a);
  __builtin_memcpy(&b, from + ld, sizeof a);
  __builtin_memcpy(&c, from + 2 * ld, sizeof a);
  __builtin_memcpy(&d, from + 3 * ld, sizeof a);
  const Q ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Q cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
  __builtin_memcpy(to, &a, sizeof a);
  __builtin_memcpy(to + ldt, &b, sizeof a);
  __builtin_memcpy(to + 2 * ldt, &c, sizeof a);
  __builtin_memcpy(to + 3 * ldt, &d, sizeof a);
#else
  for (int j = 0; j < 4; ++j)
    for (int r = 0; r < 4; ++r) to[j * ldt + r] = from[r * ld + j];
#endif
}
// columns is a multiple of four, or ld and columns are 1.
template <typename T> void transpose(T *to, i64 ldt, const T *from, i64 ld, int rows, int columns) {
  if (ld == 1) { __builtin_memcpy(to, from, rows * sizeof(T)); return; }
  int r = 0;
  for (; r + 4 <= rows; r += 4)
    for (int j = 0; j < columns; j += 4) transpose_four(to + j * ldt + r, ldt, from + r * ld + j, ld);
  for (; r < rows; ++r)
    for (int j = 0; j < columns; ++j) to[j * ldt + r] = from[r * ld + j];
}
template <typename T, int M, int N>
inline void outer_tile(T *c, i64 k, const T *a, i64 lda, const T *b, i64 ldb, int n, const int *limit, int first) {
  enum { L = Lanes<T>::N };
  typename Lanes<T>::V acc[M][N] = {};
  accumulate<T, M, N>(acc, a, lda, 1, b, ldb, n, nullptr);
  for (int m = 0; m < M; ++m) {
    const int stop = (limit ? limit[m] : int(k)) - first;  // columns of the tile that row m reaches
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      T *p = c + m * k + j * L;
      if ((j + 1) * L <= stop) put(p, get(p) + acc[m][j]);
      else for (int i = 0; i < L && j * L + i < stop; ++i) p[i] += acc[m][j][i];
    }
  }
}
template <typename T, int M>
inline void outer_rows(T *c, i64 k, const T *a, i64 lda, const T *b, i64 ldb, int n, const int *limit) {
  enum { L = Lanes<T>::N };
  int hi = int(k), j = 0;
  if (limit) {
    hi = limit[0];
    for (int m = 1; m < M; ++m) hi = limit[m] > hi ? limit[m] : hi;
  }
  for (; j + L < hi; j += 2 * L) outer_tile<T, M, 2>(c + j, k, a, lda, b + j, ldb, n, limit, j);
  for (; j < hi; j += L) outer_tile<T, M, 1>(c + j, k, a, lda, b + j, ldb, n, limit, j);
}
// a is (rows, n), b (n, k) (already transposed, ldb a multiple of the vector length), c (rows, k).
template <typename T> void product_outer(T *c, const T *a, i64 lda, const T *b, i64 ldb, int n, int rows, int k, const int *limit) {
  int r = 0;
  if (n == 1) {
    for (; r < rows; ++r) add_scaled(c + i64(r) * k, a[r * lda], b, limit ? limit[r] : k);
    return;
  }
#define ROWS(M)                                                                                                           \
  for (; r + M <= rows; r += M)                                                                                           \
    outer_rows<T, M>(c + i64(r) * k, k, a + r * lda, lda, b, ldb, n, limit ? limit + r : nullptr);
  ROWS(TALL) ROWS(4) ROWS(2) ROWS(1)
#undef ROWS
}

// Along rows: sum[r] += rows[r, :].
template <typename T> void add_row_sums(T *sum, const T *rows, int n, int ld) {
  enum { L = Lanes<T>::N };
  if (ld == 1) { add_scaled(sum, T(1), rows, n); return; }
  for (int r = 0; r < n; ++r) {
    typename Lanes<T>::V lanes = get(rows + r * ld);
    for (int j = L; j < ld; j += L) lanes += get(rows + r * ld + j);
    T total = 0;
    for (int i = 0; i < L; ++i) total += lanes[i];
    sum[r] += total;
  }
}
