// Whole layers of a flow in one call: the conditioner, the scalar map of every feature, and the sum of the log-determinants.
//
// Rows of data go through in blocks of 64, so that activations and spline parameters never leave the caches, and eight blocks
// go through a layer before the next layer starts, so that its weights are fetched once for them all. In memory a block is
// feature-major: (features, ld), ld the rows rounded up to whole vectors, and 1 for a single row, where vectors run along features
// and units; what is beyond the last row is zero on the way in, and its derivatives are zero on the way back.
#pragma once
#include "product.h"
#include "ridges.h"
#include "spline.h"

enum { DEEPEST = 8, BLOCK = 64, GROUP = 8 };  // products of a conditioner; rows of data in a block; blocks that share a layer
enum { CONDITIONED = 0, MATRIX = 1, PERMUTATION = 2, RIDGES = 3, SCALES = 4, NORMAL = 5 };
enum { AFFINE = 0, SPLINE = 1 };
enum { RELU = 0, SILU = 1, TANH = 2, ELU = 3, SOFTPLUS = 4, LEAKY_RELU = 5 };

// The same as _Layer in ops/layers.py. Tensors of a layer: weight and bias of every product, then the term of the context; of
// a matrix: itself, its bias or null, null; of a permutation: an order of 64-bit integers, null, null; of ridges and scales: phi,
// null, null; of the standard normal, which adds its log-density to the log-determinants and leaves the point alone: none.
struct Layer {
  int kind, map, act, depth, features, inputs, moved, planes, inverse, levels, packed, tails, bins;  // packed: kernels read its first tensor in another form
  int width[DEEPEST];  // rows of every product; the last: planes * moved; of ridges: twice their number, `moved`
  double bound, min_bin, min_slope, raw_one;
  const int *in, *out;           // features that the conditioner reads, in the order of its limits, and those that move
  const int *limit[DEEPEST];     // see product.h; null: dense
  const int *known;              // (levels + 1, depth): inputs and hidden units that can be computed, level by level
  i64 tensors() const { return 2 * depth + 1; }
  i64 total() const { i64 n = 0; for (int k = 0; k < depth; ++k) n += width[k]; return n; }
};

// ---- activations -------------------------------------------------------------------------------------------------------

// From exp(-2 |u|) - 1, without the one, so that nothing cancels near zero.
template <typename T> inline T tanh_(T u) {
  typedef Bits<T> B;
  T v = -2 * abs_(u);
  v = v < B::LOW ? B::LOW : v;
  const T round = T(1.5) * T(typename B::U(1) << B::MANT);
  const T n = (v * T(1.44269504088896340736) + round) - round;
  const T r = (v - n * B::LN2_HI) - n * B::LN2_LO;
  constexpr Factorials<T> f;
  T p = f.one_over[B::EXP_TERMS];
#pragma GCC unroll 32
  for (int k = B::EXP_TERMS - 1; k > 0; --k) p = p * r + f.one_over[k];
  const T power = from_bits<T>((typename B::U)((typename B::I)n + B::BIAS) << B::MANT);
  const T t = power * (p * r) + (power - 1), size = t / (t + 2);
  return u < 0 ? size : 0 - size;
}

template <int A, typename T> inline T active(T z) {
  switch (A) {
    case RELU: return z < 0 ? T(0) : z;
    case SILU: return z * sigmoid_(z);
    case TANH: return tanh_(z);
    case ELU: return z > 0 ? z : exp_(z < 0 ? z : T(0)) - 1;
    case SOFTPLUS: return softplus_(z);
    default: return z > 0 ? z : z * T(0.01);
  }
}
template <int A, typename T> inline T slope_of(T z) {
  switch (A) {
    case RELU: return z > 0 ? T(1) : T(0);
    case SILU: { const T s = sigmoid_(z); return s * (1 + z * (1 - s)); }
    case TANH: { const T t = tanh_(z); return 1 - t * t; }
    case ELU: return z > 0 ? T(1) : exp_(z < 0 ? z : T(0));
    case SOFTPLUS: return sigmoid_(z);
    default: return z > 0 ? T(1) : T(0.01);
  }
}
template <int A, typename T> void activate_as(T *h, const T *z, i64 n) {
#pragma GCC ivdep
  for (i64 i = 0; i < n; ++i) h[i] = active<A>(z[i]);
}
template <int A, typename T> void slopes_as(T *g, const T *z, i64 n) {
#pragma GCC ivdep
  for (i64 i = 0; i < n; ++i) g[i] *= slope_of<A>(z[i]);
}
#define CHOOSE(F, ...)                                                                                                    \
  switch (act) {                                                                                                          \
    case RELU: F<RELU>(__VA_ARGS__); break;                                                                               \
    case SILU: F<SILU>(__VA_ARGS__); break;                                                                               \
    case TANH: F<TANH>(__VA_ARGS__); break;                                                                               \
    case ELU: F<ELU>(__VA_ARGS__); break;                                                                                 \
    case SOFTPLUS: F<SOFTPLUS>(__VA_ARGS__); break;                                                                       \
    default: F<LEAKY_RELU>(__VA_ARGS__);                                                                                  \
  }
template <typename T> void activate(int act, T *h, const T *z, i64 n) { CHOOSE(activate_as, h, z, n) }
template <typename T> void slopes(int act, T *g, const T *z, i64 n) { CHOOSE(slopes_as, g, z, n) }

// ---- scalar maps: n elements next to each other, planes of phi n apart --------------------------------------------------

template <typename T> inline Grid<T> grid_of(const Layer &l) { return {l.bins, l.tails, T(l.bound), T(l.min_bin), T(l.min_slope), T(l.raw_one)}; }

template <typename T> void map(const Layer &l, const T *x, const T *phi, T *y, T *ladj, i64 n) {
  if (l.map == SPLINE) {
    if (l.inverse) inverse<T>(x, phi, y, ladj, n, 0, n, grid_of<T>(l));
    else forward<T>(x, phi, y, ladj, n, 0, n, grid_of<T>(l));
    return;
  }
  const T s = T(l.bound), *raw = phi + n;
  if (l.inverse) {
#pragma GCC ivdep
    for (i64 i = 0; i < n; ++i) {
      const T a = s * tanh_(raw[i] / s);
      y[i] = (x[i] - phi[i]) * exp_(-a);
      ladj[i] = -a;
    }
  } else {
#pragma GCC ivdep
    for (i64 i = 0; i < n; ++i) {
      const T a = s * tanh_(raw[i] / s);
      y[i] = x[i] * exp_(a) + phi[i];
      ladj[i] = a;
    }
  }
}

// At the data point x (the input of the forward direction, the result of the inverse one).
template <typename T> void map_back(const Layer &l, const T *x, const T *phi, const T *g, const T *gl, T *gx, T *gphi, i64 n) {
  if (l.map == SPLINE) { pull<T>(x, phi, g, gl, gx, gphi, n, 0, n, grid_of<T>(l), l.inverse); return; }
  const T s = T(l.bound), *raw = phi + n;
  T *gt = gphi, *gr = gphi + n;
#pragma GCC ivdep
  for (i64 i = 0; i < n; ++i) {
    const T own = g[i], t = tanh_(raw[i] / s), bend = 1 - t * t, through = own * exp_(l.inverse ? -s * t : s * t);
    gx[i] = through;
    gt[i] = l.inverse ? -through : own;
    gr[i] = bend * (l.inverse ? -own * x[i] - gl[i] : through * x[i] + gl[i]);
  }
}

// Numbers of a layer in the form that the kernels read; 0: as they are stored.
inline i64 packed_size(const Layer &l) {
  if (l.kind == RIDGES) return ridges_size(l.moved, l.features);
  if (l.kind == SCALES) return 2 * l.features;
  return l.packed ? i64(l.width[0]) * l.inputs : 0;
}

// ---- work space of a thread ---------------------------------------------------------------------------------------------

template <typename T> struct Space {
  T *x, *a, *from, *to, *lad, *act, *h[2], *g, *ga, *gphi, *gh[2], *turned, *packed, *gpacked;
  i64 size;
  Space(const Layer *l, int n, T *base, bool back) {
    i64 d = 1, moved = 1, total = 1, widest = 1, hidden = 1, forms = 0;
    for (int i = 0; i < n; ++i) {
      if (l[i].features > d) d = l[i].features;
      if (l[i].moved > moved) moved = l[i].moved;
      if (l[i].total() > total) total = l[i].total();
      for (int k = 0; k < l[i].depth; ++k) {
        if (l[i].width[k] > widest) widest = l[i].width[k];
        if (k + 1 < l[i].depth && l[i].width[k] > hidden) hidden = l[i].width[k];
      }
      forms += packed_size(l[i]);
    }
    size = 0;
    auto take = [&](i64 count) { T *p = base + size; size += (count + 31) / 32 * 32; return p; };
    x = take(d * BLOCK * GROUP); a = take(d * BLOCK);
    from = take(moved * BLOCK); to = take(moved * BLOCK); lad = take(moved * BLOCK);
    act = take(total * BLOCK);
    h[0] = take(hidden * BLOCK); h[1] = take(hidden * BLOCK);
    packed = take(forms);
    if (!back) return;
    i64 most = hidden > d ? hidden : d;
    for (int i = 0; i < n; ++i) if (l[i].kind == RIDGES && l[i].moved > most) most = l[i].moved;
    g = take(d * BLOCK * GROUP); ga = take(d * BLOCK); gphi = take(widest * BLOCK);
    gh[0] = take(most * BLOCK); gh[1] = take(most * BLOCK);
    turned = take((most + 64) * BLOCK); gpacked = take(forms);
  }
};

// Weights in the form that the kernels read: columns of first weights in the order of the limits, and what ridges.h packs.
template <typename T> void pack(const Layer *l, int n, const T *const *tensors, T *to) {
  for (int i = 0; i < n; to += packed_size(l[i]), tensors += l[i++].tensors())
    if (l[i].kind == RIDGES) pack_ridges(to, tensors[0], l[i].moved, l[i].features);
    else if (l[i].kind == SCALES) pack_scales(to, tensors[0], l[i].features, T(l[i].bound), l[i].inverse);
    else if (l[i].packed)
      for (int r = 0; r < l[i].width[0]; ++r)
        for (int k = 0; k < l[i].inputs; ++k) to[r * l[i].inputs + k] = tensors[0][r * l[i].inputs + l[i].in[k]];
}
// Gradients of that form, added to those of the weights.
template <typename T> void unpack(const Layer *l, int n, const T *const *tensors, const T *packed, T *from, T *const *gradients) {
  for (int i = 0; i < n; ++i) {
    const T *w = tensors[0];
    T *g = gradients[0];
    if (l[i].kind == RIDGES) unpack_ridges(g, w, packed, from, l[i].moved, l[i].features, l[i].inverse);
    else if (l[i].kind == SCALES) unpack_scales(g, w, from, l[i].features, T(l[i].bound), l[i].inverse);
    else if (l[i].packed)
      for (int r = 0; r < l[i].width[0]; ++r)
        for (int k = 0; k < l[i].inputs; ++k) g[r * l[i].inputs + l[i].in[k]] += from[r * l[i].inputs + k];
    from += packed_size(l[i]);
    packed += packed_size(l[i]);
    tensors += l[i].tensors();
    gradients += l[i].tensors();
  }
}

// ---- one block through one layer ----------------------------------------------------------------------------------------

inline bool adjacent(const int *index, int n) {
  for (int i = 1; i < n; ++i) if (index[i] != index[0] + i) return false;
  return true;
}
// Rows of a block by index: where they lie already, or a copy of them.
template <typename T> const T *pick(const T *x, const int *index, int n, int ld, T *to) {
  if (n == 0 || adjacent(index, n)) return n ? x + i64(index[0]) * ld : x;
  for (int i = 0; i < n; ++i) __builtin_memcpy(to + i64(i) * ld, x + i64(index[i]) * ld, ld * sizeof(T));
  return to;
}

template <typename T> struct Term {  // what the context adds to the first product: (width, batch)
  const T *value;
  T *gradient;
  i64 batch, at;
  int n;
};

// Weighted sums and activations of a conditioner; z holds them all, one product after the other, and the last is phi.
template <typename T>
const T *network(const Layer &l, const T *const *w, const T *first, const T *a, T *z, T *const *h, const Term<T> &term, int ld) {
  const T *in = a;
  int columns = l.inputs;
  for (int k = 0; k < l.depth; ++k) {
    product(z, k ? w[2 * k] : first, columns, in, ld, ld, l.width[k], columns, l.limit[k], w[2 * k + 1], 1);
    if (k == 0 && term.value)
      for (int r = 0; r < l.width[0]; ++r)
        for (int j = 0; j < term.n; ++j) z[r * ld + j] += term.value[r * term.batch + term.at + j];
    if (k + 1 == l.depth) return z;
    activate(l.act, h[k % 2], z, i64(l.width[k]) * ld);
    in = h[k % 2];
    columns = l.width[k];
    z += i64(l.width[k]) * ld;
  }
  return z;
}

// The derivatives of the same; s.gphi holds those of phi. Gradients of weights are added to.
template <typename T>
void network_back(const Layer &l, const T *const *w, const T *first, const T *a, const T *z, T *const *gw, T *gfirst, const Term<T> &term, Space<T> &s, int ld) {
  const T *g = s.gphi;
  const T *below = z + l.total() * ld;
  below -= i64(l.width[l.depth - 1]) * ld;  // phi
  for (int k = l.depth - 1; k >= 0; --k) {
    const int columns = k ? l.width[k - 1] : l.inputs;
    const T *in = a;
    if (k) {
      below -= i64(columns) * ld;
      activate(l.act, s.h[0], below, i64(columns) * ld);
      in = s.h[0];
    }
    add_row_sums(gw[2 * k + 1], g, l.width[k], ld);
    if (k == 0 && term.gradient)
      for (int r = 0; r < l.width[0]; ++r)
        for (int j = 0; j < term.n; ++j) term.gradient[r * term.batch + term.at + j] = g[r * ld + j];
    const int ldt = whole<T>(columns);
    transpose(s.turned, ldt, in, ld, columns, ld);
    product_outer(k ? gw[2 * k] : gfirst, g, ld, s.turned, ldt, ld, l.width[k], columns, l.limit[k]);
    if (k) {
      T *back = s.gh[k % 2];
      product_back(back, w[2 * k], g, ld, ld, l.width[k], columns, l.limit[k]);
      slopes(l.act, back, below, i64(columns) * ld);
      g = back;
    } else if (columns) {
      product_back(s.ga, first, g, ld, ld, l.width[0], columns, l.limit[0]);
    }
  }
}

template <typename T> inline void add_rows(T *sum, const T *rows, int n, int ld) {
  for (int r = 0; r < n; ++r)
    for (int j = 0; j < ld; ++j) sum[j] += rows[r * ld + j];
}

// The inverse of an autoregressive layer, level by level, every unit once: x holds latents on entry and data at the end.
template <typename T>
void sweep(const Layer &l, const T *const *w, const T *first, T *x, T *total, const Term<T> &term, Space<T> &s, int ld) {
  const int last = l.depth - 1;
  T *h[DEEPEST], *p = s.act;
  for (int k = 0; k < last; ++k) { h[k] = p; p += i64(l.width[k]) * ld; }
  T *phi = p;
  for (int level = 0; level < l.levels; ++level) {
    const int *now = l.known + i64(level) * l.depth, *next = now + l.depth;
    for (int k = 0; k < last; ++k) {
      // Row `level + 1` of the table counts the units that are computable now, with the inputs of the levels before.
      const int u0 = level ? now[k + 1] : 0, u1 = next[k + 1], columns = k ? l.width[k - 1] : l.inputs;
      T *z = h[k] + i64(u0) * ld;
      product(z, (k ? w[2 * k] : first) + i64(u0) * columns, columns, k ? h[k - 1] : s.a, ld, ld, u1 - u0, columns, l.limit[k] + u0, w[2 * k + 1] + u0, 1);
      if (k == 0 && term.value)
        for (int r = 0; r < u1 - u0; ++r)
          for (int j = 0; j < term.n; ++j) z[r * ld + j] += term.value[(u0 + r) * term.batch + term.at + j];
      activate(l.act, z, z, i64(u1 - u0) * ld);
    }
    for (int at = now[0]; at < next[0]; ++at) {
      const int f = l.in[at];
      const int *limit = l.limit[last];
      int ends[3 * MOST + 1];
      for (int q = 0; q < l.planes; ++q) ends[q] = limit[q * l.moved + f];
      const T *head = w[2 * last] + i64(f) * l.width[last - 1];
      product(phi, head, i64(l.moved) * l.width[last - 1], h[last - 1], ld, ld, l.planes, l.width[last - 1], ends, w[2 * last + 1] + f, l.moved);
      T *value = s.a + i64(at) * ld;
      map(l, x + i64(f) * ld, phi, value, s.lad, ld);
      __builtin_memcpy(x + i64(f) * ld, value, ld * sizeof(T));
      add_rows(total, s.lad, 1, ld);
    }
  }
}

template <typename T> void standard_normal(const T *z, T *total, int d, int ld) {
  T squares[BLOCK] = {};
  for (int f = 0; f < d; ++f)
    for (int j = 0; j < ld; ++j) squares[j] += z[i64(f) * ld + j] * z[i64(f) * ld + j];
  for (int j = 0; j < ld; ++j) total[j] -= T(0.5) * squares[j] + T(0.91893853320467274178) * d;  // log(2 pi) / 2
}
template <typename T> void standard_normal_back(T *g, const T *gl, const T *z, int d, int ld) {
  for (int f = 0; f < d; ++f)
    for (int j = 0; j < ld; ++j) g[i64(f) * ld + j] -= z[i64(f) * ld + j] * gl[j];
}

// ---- all layers ---------------------------------------------------------------------------------------------------------

template <typename T> inline void read_block(T *to, const T *from, i64 by_feature, i64 by_row, int d, int n, int ld) {
  for (int f = 0; f < d; ++f) {
    const T *p = from + f * by_feature;
    T *q = to + i64(f) * ld;
    if (by_row == 1) for (int j = 0; j < n; ++j) q[j] = p[j];
    else for (int j = 0; j < n; ++j) q[j] = p[j * by_row];
    for (int j = n; j < ld; ++j) q[j] = 0;
  }
}

// A block on its way: where it starts, how many rows it has, and its leading dimension.
struct Part {
  i64 block, at;
  int n, ld;
  Part(i64 b, i64 batch) : block(b), at(b * BLOCK), n(int(batch - at < BLOCK ? batch - at : BLOCK)), ld(0) {}
};
template <typename T> inline Part part_of(i64 block, i64 batch) { Part p(block, batch); p.ld = p.n == 1 ? 1 : whole<T>(p.n); return p; }

// One block through one layer, in place: x (features, ld), and total, the sum of the log-determinants.
template <typename T>
void step(const Layer &l, const T *const *w, const T *first, T *x, T *total, T *point, T *sums, const Part &part, i64 batch, Space<T> &s) {
  const int d = l.features, ld = part.ld;
  const i64 bytes = i64(d) * ld * sizeof(T);
  if (point && !l.inverse) __builtin_memcpy(point, x, bytes);
  if (l.kind == MATRIX) {
    product(s.a, w[0], d, x, ld, ld, d, d, nullptr, w[1], 1);
    __builtin_memcpy(x, s.a, bytes);
    return;
  }
  if (l.kind == PERMUTATION) {
    const i64 *order = (const i64 *)w[0];
    __builtin_memcpy(s.a, x, bytes);
    for (int f = 0; f < d; ++f) __builtin_memcpy(x + i64(f) * ld, s.a + order[f] * ld, ld * sizeof(T));
    return;
  }
  if (l.kind == NORMAL) { standard_normal(x, total, d, ld); return; }
  if (l.kind == RIDGES || l.kind == SCALES) {
    const Ridges<const T> r(first, l.moved, d);
    T *t = sums ? sums : s.act;
    if (l.kind == SCALES) scales(first, w[0], l.inverse, x, total, d, ld);
    else if (l.inverse) ridges_inverse(r, x, total, t, part.n, ld);
    else ridges(r, x, total, t, ld);
    if (point && l.inverse) __builtin_memcpy(point, x, bytes);
    return;
  }
  const Term<T> term = {w[2 * l.depth], nullptr, batch, part.at, part.n};
  if (l.levels && l.inverse) { sweep(l, w, first, x, total, term, s, ld); return; }
  const T *a = pick(x, l.in, l.inputs, ld, s.a);
  const T *phi = network(l, w, first, a, sums ? sums : s.act, s.h, term, ld);
  const T *from = pick(x, l.out, l.moved, ld, s.from);
  map(l, from, phi, s.to, s.lad, i64(l.moved) * ld);
  for (int f = 0; f < l.moved; ++f) __builtin_memcpy(x + i64(l.out[f]) * ld, s.to + i64(f) * ld, ld * sizeof(T));
  add_rows(total, s.lad, l.moved, ld);
  if (point && l.inverse) __builtin_memcpy(point, x, bytes);
}

// The way back of one block through one layer, in place: g (features, ld), with gl for the log-determinant of every row.
template <typename T>
void step_back(const Layer &l, const T *const *w, const T *first, T *const *gw, T *gfirst, T *g, const T *gl, const T *point,
               const T *sums, const Part &part, i64 batch, Space<T> &s) {
  const int d = l.features, ld = part.ld;
  const i64 bytes = i64(d) * ld * sizeof(T);
  if (l.kind == MATRIX) {
    if (gw[0]) {
      transpose(s.turned, whole<T>(d), point, ld, d, ld);
      product_outer(gw[0], g, ld, s.turned, whole<T>(d), ld, d, d, nullptr);
    }
    if (gw[1]) add_row_sums(gw[1], g, d, ld);
    product_back(s.ga, w[0], g, ld, ld, d, d, nullptr);
    __builtin_memcpy(g, s.ga, bytes);
    return;
  }
  if (l.kind == PERMUTATION) {
    const i64 *order = (const i64 *)w[0];
    __builtin_memcpy(s.ga, g, bytes);
    for (int f = 0; f < d; ++f) __builtin_memcpy(g + order[f] * ld, s.ga + i64(f) * ld, ld * sizeof(T));
    return;
  }
  if (l.kind == NORMAL) { standard_normal_back(g, gl, point, d, ld); return; }
  if (l.kind == SCALES) { scales_back(first, l.inverse, g, gl, point, gfirst, d, ld); return; }
  if (l.kind == RIDGES) {
    const Ridges<const T> r(first, l.moved, d);
    if (!sums) {
      __builtin_memcpy(s.a, point, bytes);
      ridges(r, s.a, s.lad, s.act, ld);  // of which only the slopes are read
    }
    ridges_back(r, Ridges<T>(gfirst, l.moved, d), l.inverse, g, gl, point, sums ? sums : s.act, s.gphi, s.turned, ld);
    return;
  }
  const Term<T> term = {w[2 * l.depth], gw[2 * l.depth], batch, part.at, part.n};
  const T *a = pick(point, l.in, l.inputs, ld, s.a);
  if (!sums) network(l, w, first, a, s.act, s.h, term, ld);
  const T *z = sums ? sums : s.act, *phi = z + (l.total() - l.width[l.depth - 1]) * ld;
  const T *x = pick(point, l.out, l.moved, ld, s.from);
  for (int f = 0; f < l.moved; ++f) {
    __builtin_memcpy(s.to + i64(f) * ld, g + i64(l.out[f]) * ld, ld * sizeof(T));
    __builtin_memcpy(s.lad + i64(f) * ld, gl, ld * sizeof(T));
  }
  map_back(l, x, phi, s.to, s.lad, s.to, s.gphi, i64(l.moved) * ld);
  for (int f = 0; f < l.moved; ++f) __builtin_memcpy(g + i64(l.out[f]) * ld, s.to + i64(f) * ld, ld * sizeof(T));
  network_back(l, w, first, a, z, gw, gfirst, term, s, ld);
  for (int k = 0; k < l.inputs; ++k)
    for (int j = 0; j < ld; ++j) g[i64(l.in[k]) * ld + j] += s.ga[i64(k) * ld + j];
}

// Results are (features, batch). `points` and `sums` are null, or keep of every block and layer the data point (features,
// BLOCK) and the weighted sums of the conditioner (total, BLOCK) for the way back; `sums` may be null alone.
template <typename T>
void run(const Layer *l, int layers, const T *const *tensors, const T *x, i64 by_feature, i64 by_row, T *y, T *ladj, i64 batch,
         T *points, T *sums, T *space, i64 block0, i64 block1) {
  Space<T> s(l, layers, space, false);
  pack(l, layers, tensors, s.packed);
  const i64 d = l[0].features, size = d * BLOCK;
  i64 all = 0;
  for (int i = 0; i < layers; ++i) all += l[i].total();
  for (i64 b0 = block0; b0 < block1; b0 += GROUP) {
    const i64 b1 = b0 + GROUP < block1 ? b0 + GROUP : block1;
    T total[GROUP][BLOCK] = {};
    for (i64 b = b0; b < b1; ++b) {
      const Part part = part_of<T>(b, batch);
      read_block(s.x + (b - b0) * size, x + part.at * by_row, by_feature, by_row, int(d), part.n, part.ld);
    }
    const T *const *w = tensors;
    const T *packed = s.packed;
    i64 before = 0;
    for (int i = 0; i < layers; ++i) {
      for (i64 b = b0; b < b1; ++b) {
        T *point = points ? points + (b * layers + i) * size : nullptr, *own = sums ? sums + (b * all + before) * BLOCK : nullptr;
        step(l[i], w, packed_size(l[i]) ? packed : w[0], s.x + (b - b0) * size, total[b - b0], point, own, part_of<T>(b, batch), batch, s);
      }
      w += l[i].tensors();
      packed += packed_size(l[i]);
      before += l[i].total();
    }
    for (i64 b = b0; b < b1; ++b) {
      const Part part = part_of<T>(b, batch);
      const T *from = s.x + (b - b0) * size;
      for (i64 f = 0; f < d; ++f) __builtin_memcpy(y + f * batch + part.at, from + f * part.ld, part.n * sizeof(T));
      __builtin_memcpy(ladj + part.at, total[b - b0], part.n * sizeof(T));
    }
  }
}

// Cotangents of the input, (features, batch), and of all tensors, which are added to (terms of the context: written).
template <typename T>
void run_back(const Layer *l, int layers, const T *const *tensors, const T *points, const T *sums, const T *gy, i64 by_feature,
              i64 by_row, const T *gladj, i64 gladj_by_row, T *gx, T *const *gradients, i64 batch, T *space, i64 block0, i64 block1) {
  Space<T> s(l, layers, space, true);
  pack(l, layers, tensors, s.packed);
  const i64 d = l[0].features, size = d * BLOCK;
  i64 all = 0, forms = 0, used = 0;
  for (int i = 0; i < layers; ++i) {
    all += l[i].total();
    used += l[i].tensors();
    forms += packed_size(l[i]);
  }
  for (i64 i = 0; i < forms; ++i) s.gpacked[i] = 0;
  for (i64 b0 = block0; b0 < block1; b0 += GROUP) {
    const i64 b1 = b0 + GROUP < block1 ? b0 + GROUP : block1;
    T gl[GROUP][BLOCK];
    for (i64 b = b0; b < b1; ++b) {
      const Part part = part_of<T>(b, batch);
      for (int j = 0; j < part.ld; ++j) gl[b - b0][j] = j < part.n ? gladj[(part.at + j) * gladj_by_row] : T(0);
      read_block(s.g + (b - b0) * size, gy + part.at * by_row, by_feature, by_row, int(d), part.n, part.ld);
    }
    const T *const *w = tensors + used;
    T *const *gw = gradients + used;
    i64 place = forms, before = all;
    for (int i = layers - 1; i >= 0; --i) {
      w -= l[i].tensors();
      gw -= l[i].tensors();
      const i64 own = packed_size(l[i]);
      place -= own;
      before -= l[i].total();
      for (i64 b = b0; b < b1; ++b)
        step_back(l[i], w, own ? s.packed + place : w[0], gw, own ? s.gpacked + place : gw[0],
                  s.g + (b - b0) * size, gl[b - b0], points + (b * layers + i) * size,
                  sums ? sums + (b * all + before) * BLOCK : nullptr, part_of<T>(b, batch), batch, s);
    }
    for (i64 b = b0; b < b1; ++b) {
      const Part part = part_of<T>(b, batch);
      for (i64 f = 0; f < d; ++f)
        __builtin_memcpy(gx + f * batch + part.at, s.g + (b - b0) * size + f * part.ld, part.n * sizeof(T));
    }
  }
  unpack(l, layers, tensors, s.packed, s.gpacked, gradients);
}
