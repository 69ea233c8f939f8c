// The solve of a perceptron field on a fixed grid in one call, the divergence that it gathers with it, and its exact way back.
//
// Rows of data go through the whole solve in blocks of 64, feature-major as in layers.h, so that nothing but the state leaves
// the caches. What is beyond the last row is a copy of it, and its derivatives are zero on the way back. The way in keeps the
// state at the start of every step; the way back computes the stages of a step again and is the derivative of the discrete
// solution, to rounding. The divergence, with slopes g of the activations, is g1·diagonal for one hidden layer, with the
// diagonal of W1 W2, and g2·(core g1) for two, with core = W2 ∘ transpose(W1 W3): see ops/perceptron.py.
#pragma once
#include "layers.h"

// The same as _Field in ops/field.py. Tensors: weight of the first product and what times add to it, (steps * stages, width),
// then weight and bias of every other product, the term of the context or null, and core or diagonal, or null: velocity alone.
struct Field {
  int act, hidden, features, stages, steps, joint;
  int width[DEEPEST];
  const double *a, *b;  // the tableau times the step: (stages, stages) and (stages)
  i64 total() const { i64 n = 0; for (int k = 0; k < hidden; ++k) n += width[k]; return n; }
  int widest() const { int n = features; for (int k = 0; k < hidden; ++k) n = width[k] > n ? width[k] : n; return n; }
  int tensors() const { return 2 * hidden + 4; }
};

// ---- smooth activations: what is kept of them is the output, and the input where the output does not say the slope -------

template <int A> constexpr bool keeps_input() { return A != TANH; }
template <int A, typename T> inline T slope_at(T a, T h) {
  switch (A) {
    case TANH: return 1 - h * h;
    case SILU: return sigmoid_(a) * (1 + a - h);
    default: return sigmoid_(a);
  }
}
template <int A, typename T> inline void bends_at(T a, T h, T &slope, T &curve) {
  const T s = A == TANH ? T(0) : sigmoid_(a);
  switch (A) {
    case TANH: slope = 1 - h * h; curve = -2 * h * slope; break;
    case SILU: slope = s * (1 + a - h); curve = s * ((1 - s) * (1 + a - h) + 1 - slope); break;
    default: slope = s; curve = s * (1 - s);
  }
}
template <int A, typename T> void all_slopes(T *g, const T *a, const T *h, i64 n) {
#pragma GCC ivdep
  for (i64 i = 0; i < n; ++i) g[i] = slope_at<A>(a[i], h[i]);
}
// total += weight * what rows of two matrices, or of one and a vector, give when multiplied and summed over rows.
template <bool VECTOR, typename T> void add_products(T *total, T weight, const T *a, const T *g, int rows, int ld) {
  typedef typename Lanes<T>::V V;
  enum { L = Lanes<T>::N };
  if (ld == 1) {
    T sum;
    product_one(&sum, a, rows, g, 1, rows, nullptr, (const T *)nullptr, 1);
    total[0] += weight * sum;
    return;
  }
  for (int j = 0; j < ld; j += L) {
    V sum[4] = {};
    int r = 0;
    for (; r + 4 <= rows; r += 4)
#pragma GCC unroll 4
      for (int m = 0; m < 4; ++m) {
        if (VECTOR) sum[m] += a[r + m] * get(g + (r + m) * ld + j);
        else sum[m] += get(a + (r + m) * ld + j) * get(g + (r + m) * ld + j);
      }
    for (; r < rows; ++r) {
      if (VECTOR) sum[0] += a[r] * get(g + r * ld + j);
      else sum[0] += get(a + r * ld + j) * get(g + r * ld + j);
    }
    put(total + j, get(total + j) + weight * ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
}

// ---- work space of a thread ---------------------------------------------------------------------------------------------

template <typename T> struct Stage {  // one evaluation of the field; each piece may hold BLOCK columns
  T *z, *v, *a, *h, *seen;            // point, velocity, inputs and outputs of the activations, core g1
};
template <typename T> struct Room {
  T *z, *term, *g, *seen, *stages, *gz, *gk, *gpoint, *gterm, *back[2], *bend, *turned, *first;
  i64 size, one;  // elements in all, and of a stage
  i64 d, total, last;
  Room(const Field &f, T *base, bool back_too) {
    d = f.features; total = f.total(); last = f.width[f.hidden - 1];
    size = 0;
    auto take = [&](i64 count) { T *p = base + size; size += (count + 31) / 32 * 32; return p; };
    one = (2 * d + 2 * total + last) * BLOCK;
    z = take(d * BLOCK); term = take(f.width[0] * BLOCK); g = take(f.widest() * BLOCK); seen = take(last * BLOCK);
    stages = take(one * (back_too ? f.stages : 1) + (back_too ? 0 : f.stages * d * BLOCK));
    if (!back_too) return;
    const i64 most = f.widest();
    gz = take(d * BLOCK); gk = take(f.stages * d * BLOCK); gpoint = take(d * BLOCK); gterm = take(f.width[0] * BLOCK);
    back[0] = take(most * BLOCK); back[1] = take(most * BLOCK);
    bend = take(total * BLOCK); turned = take((most + 64) * BLOCK);
    first = take(few() ? d * whole<T>(f.width[0]) : 0);
  }
  bool few() const { return d < Lanes<T>::N; }  // then the gradient of the first weight is gathered transposed
  Stage<T> stage(int i) const {
    T *p = stages + i * one;
    return {p, p + d * BLOCK, p + 2 * d * BLOCK, p + (2 * d + total) * BLOCK, p + (2 * d + 2 * total) * BLOCK};
  }
  // Without a way back the stages share all but their velocities.
  Stage<T> passing(int i) const { Stage<T> s = stage(0); s.v = stages + one + i * d * BLOCK; return s; }
};

// ---- one evaluation -----------------------------------------------------------------------------------------------------

template <int A, typename T>
void velocity(const Field &f, const T *const *w, const T *drift, const T *term, const Stage<T> &s, int ld) {
  const T *in = s.z;
  int columns = f.features;
  T *a = s.a, *h = s.h;
  for (int k = 0; k < f.hidden; ++k) {
    const i64 n = i64(f.width[k]) * ld;
    T *sums = keeps_input<A>() ? a : h;
    product(sums, w[2 * k], columns, in, ld, ld, f.width[k], columns, nullptr, k ? w[2 * k + 1] : drift, 1);
    if (k == 0 && term)
      for (i64 i = 0; i < n; ++i) sums[i] += term[i];
    activate_as<A>(h, sums, n);
    in = h; columns = f.width[k];
    a += n; h += n;
  }
  product(s.v, w[2 * f.hidden], columns, in, ld, ld, f.features, columns, nullptr, w[2 * f.hidden + 1], 1);
}

// What the slopes of the first of two hidden layers are in the divergence: s.seen = core g1, with g1 in g.
template <int A, typename T> void see(const Field &f, const T *core, const Stage<T> &s, T *g, int ld) {
  all_slopes<A>(g, s.a, s.h, i64(f.width[0]) * ld);
  product(s.seen, core, f.width[0], g, ld, ld, f.width[1], f.width[0], nullptr, (const T *)nullptr, 1);
}

// total += weight * divergence.
template <int A, typename T>
void divergence(const Field &f, const T *once, T weight, const Stage<T> &s, T *g, T *total, int ld) {
  const i64 first = i64(f.width[0]) * ld;
  if (f.hidden == 1) {
    all_slopes<A>(g, s.a, s.h, first);
    add_products<true>(total, weight, once, g, f.width[0], ld);
    return;
  }
  see<A>(f, once, s, g, ld);
  all_slopes<A>(g, s.a + first, s.h + first, i64(f.width[1]) * ld);
  add_products<false>(total, weight, s.seen, g, f.width[1], ld);
}

template <typename T> inline void turned_outer(T *c, const T *a, const T *b, int rows, int k, T *turned, int ld) {  // c += a·transpose(b)
  const int ldt = whole<T>(k);
  transpose(turned, ldt, b, ld, k, ld);
  product_outer(c, a, ld, turned, ldt, ld, rows, k, nullptr);
}

// The derivatives of one evaluation: r.gpoint from gv and, unless null, gt, those of its velocity and of its divergence.
template <int A, typename T>
void velocity_back(const Field &f, const T *const *w, T *const *gw, T *gdrift, const Stage<T> &s, const T *gv, const T *gt, Room<T> &r, int ld) {
  const int last = f.hidden - 1, w0 = f.width[0];
  const T *once = w[2 * f.hidden + 3];
  T *gonce = gw[2 * f.hidden + 3];
  if (gt && f.hidden == 1) {
    for (int i = 0; i < w0; ++i) {
      T sum = 0;
      for (int j = 0; j < ld; ++j) {
        r.bend[i * ld + j] = once[i] * gt[j];
        sum += slope_at<A>(s.a[i * ld + j], s.h[i * ld + j]) * gt[j];
      }
      gonce[i] += sum;
    }
  } else if (gt) {
    const i64 first = i64(w0) * ld;
    const T *a = s.a + first, *h = s.h + first;
    T *gseen = r.seen, *bend = r.bend + first;
    for (int i = 0; i < f.width[1]; ++i)
#pragma GCC ivdep
      for (int j = 0; j < ld; ++j) {
        gseen[i * ld + j] = slope_at<A>(a[i * ld + j], h[i * ld + j]) * gt[j];
        bend[i * ld + j] = s.seen[i * ld + j] * gt[j];
      }
    all_slopes<A>(r.g, s.a, s.h, first);
    turned_outer(gonce, gseen, r.g, f.width[1], w0, r.turned, ld);
    product_back(r.bend, once, gseen, ld, ld, f.width[1], w0, nullptr);
  }
  const T *g = gv;
  int rows = f.features;
  i64 at = f.total() * ld;
  for (int k = last; k >= 0; --k) {
    const i64 n = i64(f.width[k]) * ld;
    at -= n;
    const T *a = s.a + at, *h = s.h + at, *bend = r.bend + at;
    add_row_sums(gw[2 * k + 3], g, rows, ld);
    turned_outer(gw[2 * k + 2], g, h, rows, f.width[k], r.turned, ld);
    T *to = r.back[k % 2];
    product_back(to, w[2 * k + 2], g, ld, ld, rows, f.width[k], nullptr);
    if (gt) {
#pragma GCC ivdep
      for (i64 i = 0; i < n; ++i) {
        T slope, curve;
        bends_at<A>(a[i], h[i], slope, curve);
        to[i] = to[i] * slope + bend[i] * curve;
      }
    } else {
#pragma GCC ivdep
      for (i64 i = 0; i < n; ++i) to[i] *= slope_at<A>(a[i], h[i]);
    }
    g = to;
    rows = f.width[k];
  }
  add_row_sums(gdrift, g, w0, ld);
  if (gw[2 * f.hidden + 2])
    for (i64 i = 0; i < i64(w0) * ld; ++i) r.gterm[i] += g[i];
  if (r.few()) turned_outer(r.first, s.z, g, f.features, w0, r.turned, ld);
  else turned_outer(gw[0], g, s.z, w0, f.features, r.turned, ld);
  product_back(r.gpoint, w[0], g, ld, ld, w0, f.features, nullptr);
}

// ---- the solve ----------------------------------------------------------------------------------------------------------

template <typename T> inline void fill_rows(T *to, const T *from, i64 by_feature, i64 by_row, int d, const Part &p) {
  read_block(to, from + p.at * by_row, by_feature, by_row, d, p.n, p.ld);
  for (int f = 0; f < d; ++f)
    for (int j = p.n; j < p.ld; ++j) to[f * p.ld + j] = to[f * p.ld + p.n - 1];
}
template <typename T> inline void add_share(T *to, double weight, const T *from, i64 n) {  // many of a tableau are zero
  if (weight != 0) add_scaled(to, T(weight), from, n);
}
template <typename T> void point_of(const Field &f, int i, const T *z, const Room<T> &r, const Stage<T> &s, bool keep, int ld) {
  const i64 n = i64(f.features) * ld;
  __builtin_memcpy(s.z, z, n * sizeof(T));
  for (int j = 0; j < i; ++j) add_share(s.z, f.a[i * f.stages + j], (keep ? r.stage(j) : r.passing(j)).v, n);
}

// Results are (features, batch) and, if joint, (batch). `points` is null, or keeps of every block and step its start.
template <int A, typename T>
void solve(const Field &f, const T *const *w, const T *x, i64 by_feature, i64 by_row, T *y, T *ladj, i64 batch, T *points, T *space,
           i64 block0, i64 block1) {
  Room<T> r(f, space, false);
  const int d = f.features, w0 = f.width[0];
  const T *rows = w[2 * f.hidden + 2];
  for (i64 b = block0; b < block1; ++b) {
    const Part p = part_of<T>(b, batch);
    const i64 n = i64(d) * p.ld;
    T total[BLOCK] = {};
    fill_rows(r.z, x, by_feature, by_row, d, p);
    if (rows) fill_rows(r.term, rows, batch, 1, w0, p);
    for (int step = 0; step < f.steps; ++step) {
      if (points) __builtin_memcpy(points + (b * f.steps + step) * d * BLOCK, r.z, n * sizeof(T));
      for (int i = 0; i < f.stages; ++i) {
        const Stage<T> s = r.passing(i);
        point_of(f, i, r.z, r, s, false, p.ld);
        velocity<A>(f, w, w[1] + i64(step * f.stages + i) * w0, rows ? r.term : nullptr, s, p.ld);
        if (f.joint && f.b[i] != 0) divergence<A>(f, w[2 * f.hidden + 3], T(f.b[i]), s, r.g, total, p.ld);
      }
      for (int i = 0; i < f.stages; ++i) add_share(r.z, f.b[i], r.passing(i).v, n);
    }
    for (i64 k = 0; k < d; ++k) __builtin_memcpy(y + k * batch + p.at, r.z + k * p.ld, p.n * sizeof(T));
    if (f.joint) __builtin_memcpy(ladj + p.at, total, p.n * sizeof(T));
  }
}

// Cotangents of the input, (features, batch), and of all tensors, which are added to (that of the context's term: written).
template <int A, typename T>
void solve_back(const Field &f, const T *const *w, const T *points, const T *gy, i64 by_feature, i64 by_row, const T *gladj,
                i64 gladj_by_row, T *gx, T *const *gw, i64 batch, T *space, i64 block0, i64 block1) {
  Room<T> r(f, space, true);
  const int d = f.features, w0 = f.width[0];
  const T *rows = w[2 * f.hidden + 2];
  T *grows = gw[2 * f.hidden + 2];
  if (r.few())
    for (i64 i = 0; i < i64(d) * w0; ++i) r.first[i] = 0;
  for (i64 b = block0; b < block1; ++b) {
    const Part p = part_of<T>(b, batch);
    const int ld = p.ld;
    const i64 n = i64(d) * ld;
    T gl[BLOCK], gt[BLOCK];
    for (int j = 0; j < ld; ++j) gl[j] = f.joint && j < p.n ? gladj[(p.at + j) * gladj_by_row] : T(0);
    read_block(r.gz, gy + p.at * by_row, by_feature, by_row, d, p.n, ld);
    if (rows) {
      fill_rows(r.term, rows, batch, 1, w0, p);
      for (i64 i = 0; i < i64(w0) * ld; ++i) r.gterm[i] = 0;
    }
    for (int step = f.steps - 1; step >= 0; --step) {
      const T *z = points + (b * f.steps + step) * d * BLOCK;
      for (int i = 0; i < f.stages; ++i) {
        const Stage<T> s = r.stage(i);
        point_of(f, i, z, r, s, true, ld);
        velocity<A>(f, w, w[1] + i64(step * f.stages + i) * w0, rows ? r.term : nullptr, s, ld);
        if (f.joint && f.b[i] != 0 && f.hidden == 2) see<A>(f, w[2 * f.hidden + 3], s, r.g, ld);
        T *gk = r.gk + i * d * BLOCK;
        for (i64 k = 0; k < n; ++k) gk[k] = T(f.b[i]) * r.gz[k];
      }
      for (int i = f.stages - 1; i >= 0; --i) {
        const bool gathers = f.joint && f.b[i] != 0;
        for (int j = 0; j < ld; ++j) gt[j] = T(f.b[i]) * gl[j];
        velocity_back<A>(f, w, gw, gw[1] + i64(step * f.stages + i) * w0, r.stage(i), r.gk + i * d * BLOCK, gathers ? gt : nullptr, r, ld);
        for (i64 k = 0; k < n; ++k) r.gz[k] += r.gpoint[k];
        for (int j = 0; j < i; ++j) add_share(r.gk + j * d * BLOCK, f.a[i * f.stages + j], r.gpoint, n);
      }
    }
    for (i64 k = 0; k < d; ++k) __builtin_memcpy(gx + k * batch + p.at, r.gz + k * ld, p.n * sizeof(T));
    if (grows)
      for (int k = 0; k < w0; ++k) __builtin_memcpy(grows + k * batch + p.at, r.gterm + k * ld, p.n * sizeof(T));
  }
  if (r.few())
    for (int k = 0; k < w0; ++k)
      for (int c = 0; c < d; ++c) gw[0][k * d + c] += r.first[c * w0 + k];
}

#define SMOOTH(F, ...)                                                                                                    \
  switch (f->act) {                                                                                                       \
    case TANH: F<TANH, T>(__VA_ARGS__); break;                                                                            \
    case SILU: F<SILU, T>(__VA_ARGS__); break;                                                                            \
    default: F<SOFTPLUS, T>(__VA_ARGS__);                                                                                 \
  }
