// Stacks of planar maps x <- x + u tanh(w.x + b) and elementwise affine maps, whose parameters all rows share.
//
// What is the same for all rows is computed once in a call and packed: of a stack the constrained u, w, b and 1 + w.u, of an
// affine map its scales. Gradients are summed in the same layout, over all blocks, and carried to the raw parameters at the
// end. A row of a block takes of every map two products with d numbers; see ridge.py for the equations and for the root.
#pragma once
#include "product.h"

// Arrays (maps, d), (maps, d), (maps), (maps). Gradients of u and w are those of the maps as if all stood at the first data
// point with the last cotangent; `cross`, (maps, maps), sums slope_l tanh_j, which is what the maps between add to them.
template <typename T> struct Ridges {
  T *u, *w, *b, *one_plus, *cross;
  int maps, d;
  Ridges(T *p, int maps, int d)
      : u(p), w(u + i64(maps) * d), b(w + i64(maps) * d), one_plus(b + maps), cross(one_plus + maps), maps(maps), d(d) {}
};
inline i64 ridges_size(i64 maps, i64 d) { return maps * (2 * d + 2 + maps); }

// u + along w is the constrained u; whatever the type of the numbers, in double: it is little work, and it cancels.
struct Gate {
  double a, norm, one_plus, less, along;
  template <typename T> Gate(const T *u, const T *w, int d) : a(0), norm(sizeof(T) == 4 ? 1.17549435e-38 : 2.2250738585072014e-308) {
    for (int f = 0; f < d; ++f) { a += double(u[f]) * w[f]; norm += double(w[f]) * w[f]; }
    const double half = a / 2, root = sqrt_(1 + half * half);
    one_plus = a > 0 ? half + root : 1 / (root - half);
    less = 1 / (1 + one_plus);  // 1 - kappa
    along = -less * a / norm;
  }
};

template <typename T> void pack_ridges(T *to, const T *phi, int maps, int d) {
  const Ridges<T> r(to, maps, d);
  for (int l = 0; l < maps; ++l) {
    const T *u = phi + i64(l) * (2 * d + 1), *w = u + d;
    const Gate gate(u, w, d);
    for (int f = 0; f < d; ++f) {
      r.u[l * d + f] = T(u[f] + gate.along * w[f]);
      r.w[l * d + f] = w[f];
    }
    r.b[l] = w[d];
    r.one_plus[l] = T(gate.one_plus);
  }
}

template <typename T> void unpack_ridges(T *gphi, const T *phi, const T *packed, T *gradients, int maps, int d, int inverse) {
  const Ridges<const T> r(packed, maps, d);
  const Ridges<T> g(gradients, maps, d);
  for (int l = 0; l < maps; ++l) {
    const T *u = phi + i64(l) * (2 * d + 1), *w = u + d;
    T *gu = g.u + l * d, *gw = g.w + l * d, *to = gphi + i64(l) * (2 * d + 1);
    for (int j = 0; j < l + inverse; ++j) add_scaled(gw, g.cross[l * maps + j], r.u + j * d, d);
    for (int j = inverse ? 0 : l + 1; j < (inverse ? l : maps); ++j) add_scaled(gu, g.cross[j * maps + l], r.w + j * d, d);
    const Gate gate(u, w, d);
    const double sign = inverse ? -1 : 1, bend = 1 / (gate.one_plus + 1 / gate.one_plus);  // bend: d arsinh(a / 2) / d a
    double g_along = 0;
    for (int f = 0; f < d; ++f) g_along += sign * gu[f] * w[f];
    const double kappa = gate.one_plus * gate.less;
    const double g_a = g_along * gate.less * (gate.a * kappa * bend - 1) / gate.norm + g.one_plus[l] * gate.one_plus * bend;
    const double g_norm = -g_along * gate.along / gate.norm;
    for (int f = 0; f < d; ++f) {
      const double own = sign * gu[f];
      to[f] += T(own + g_a * w[f]);
      to[d + f] += T(gw[f] + gate.along * own + g_a * u[f] + 2 * g_norm * w[f]);
    }
    to[2 * d] += g.b[l];
  }
}

// tanh and 1 - tanh^2, both to the last digits wherever u is.
template <typename T> inline T tanh_and_rest(T u, T &rest) {
  T less;
  const T e = exp_parts(-2 * abs_(u), less), one = 2 / (2 + less), t = -less / (2 + less);
  rest = e * one * one;
  return u < 0 ? -t : t;
}

template <typename T> inline void through(T *row, const T *a, const T *x, const T *b, int d, int ld) {
  product(row, a, d, x, ld, ld, 1, d, (const int *)nullptr, b, 1);  // row = b + a.x
}
template <typename T> inline void move(T *x, const T *u, const T *t, T sign, int d, int ld) {
  for (int f = 0; f < d; ++f) {
    const T step = sign * u[f];
    T *row = x + i64(f) * ld;
#pragma GCC ivdep
    for (int j = 0; j < ld; ++j) row[j] += step * t[j];
  }
}

// All maps on a block in place; t (2 maps, ld) takes every tanh, and behind them 1 - tanh^2; total the log-determinant.
template <typename T> void ridges(const Ridges<const T> &r, T *x, T *total, T *t, int ld) {
  for (int l = 0; l < r.maps; ++l, t += ld) {
    const T one_plus = r.one_plus[l];
    T *rests = t + i64(r.maps) * ld;
    through(t, r.w + l * r.d, x, r.b + l, r.d, ld);
#pragma GCC ivdep
    for (int j = 0; j < ld; ++j) {
      T rest;
      const T v = tanh_and_rest(t[j], rest);
      t[j] = v;
      rests[j] = rest;
      total[j] += log_(one_plus * rest + v * v);
    }
    move(x, r.u + l * r.d, t, T(1), r.d, ld);
  }
}

// The root s of s + m tanh(s) = r by Newton's iteration from one side: r becomes tanh(s), NaN where the residual is not at
// the level of rounding; rests becomes 1 - tanh(s)^2.
template <bool STEEP, typename T> void roots(T *r, T *rests, T *total, T one_plus, int ld) {
  const T m = one_plus - 1, most = sizeof(T) == 4 ? T(64 * 1.1920929e-7) : T(64 * 2.220446049250313e-16), twice = 2 * m;
  const T reach = !STEEP ? T(0) : twice < 1 ? atanh_series<Bits<T>::LOG1P_TERMS>(twice / (2 + twice)) : log_(1 + twice);
  T s[64];
#pragma GCC ivdep
  for (int j = 0; j < ld; ++j) {
    const T size = abs_(r[j]), far = size - m, near = size / one_plus;
    T from;
    if (STEEP) {
      const T above = m - size, knee = T(0.5) * log_(m / ((above > 0 ? above : T(0)) + reach));
      from = far > near ? far : near;
      s[j] = knee > from ? knee : from;
    } else {
      const T cube = exp_(log_(T(4.2) * size) / 3);
      from = far < near ? far : near;
      s[j] = size < T(0.238) && cube < from ? cube : from;
    }
  }
  for (int k = 0; k < 8; ++k) {
#pragma GCC ivdep
    for (int j = 0; j < ld; ++j) {
      T rest;
      const T size = abs_(r[j]), v = tanh_and_rest(s[j], rest), newton = (size - s[j] - m * v) / (one_plus * rest + v * v);
      T to = s[j] + (STEEP || newton < 0 ? newton : T(0));  // on a flat spot rounding could throw it back over the root, and far
      s[j] = !STEEP && to < size ? size : to;
    }
  }
#pragma GCC ivdep
  for (int j = 0; j < ld; ++j) {
    T rest;
    const T size = abs_(r[j]), v = tanh_and_rest(s[j], rest), gap = abs_(size - s[j] - m * v);
    const T found = gap <= most * (1 + size + abs_(m)) ? v : T(__builtin_nan(""));
    r[j] = r[j] < 0 ? -found : found;
    rests[j] = rest;
    total[j] -= log_(one_plus * rest + found * found);
  }
}

// The inverse of `ridges`, from the last map to the first; n of the rows are data.
template <typename T> void ridges_inverse(const Ridges<const T> &r, T *x, T *total, T *t, int n, int ld) {
  for (int l = r.maps - 1; l >= 0; --l) {
    T *own = t + i64(l) * ld, *rests = own + i64(r.maps) * ld;
    through(own, r.w + l * r.d, x, r.b + l, r.d, ld);
    if (r.one_plus[l] > 1) roots<true>(own, rests, total, r.one_plus[l], ld);
    else roots<false>(own, rests, total, r.one_plus[l], ld);
    for (int j = n; j < ld; ++j) { own[j] = 0; rests[j] = 1; }  // whatever the root: nothing may come back from there
    move(x, r.u + l * r.d, own, T(-1), r.d, ld);
  }
}

// The way back of either, in place: g (d, ld) and gl, at the data point x with all t; slopes (maps, ld) is work space.
template <typename T>
void ridges_back(const Ridges<const T> &r, const Ridges<T> &gr, int inverse, T *g, const T *gl, const T *x, const T *t, T *slopes, T *turned, int ld) {
  const int d = r.d, maps = r.maps, wide = whole<T>(d), tall = whole<T>(maps);
  const int *const all = nullptr;
  transpose(turned, wide, g, ld, d, ld);
  product_outer(gr.u, t, ld, turned, wide, ld, maps, d, all);
  for (int k = 0; k < maps; ++k) {
    const int l = inverse ? k : maps - 1 - k;
    const T one_plus = r.one_plus[l], m = one_plus - 1, *own = t + i64(l) * ld, *rests = own + i64(maps) * ld;
    T *slope = slopes + i64(l) * ld, g_one[64];
    through(slope, r.u + l * d, g, (const T *)nullptr, d, ld);
#pragma GCC ivdep
    for (int j = 0; j < ld; ++j) {
      const T v = own[j], rest = rests[j], over = 1 / (one_plus * rest + v * v), bent = gl[j] * over;
      const T seen = rest * (slope[j] - 2 * m * v * bent);  // of what the tanh is taken of
      slope[j] = inverse ? -seen * over : seen;
      g_one[j] = inverse ? v * seen * over - rest * bent : rest * bent;
    }
    add_row_sums(gr.one_plus + l, g_one, 1, ld);
    move(g, r.w + l * d, slope, T(1), d, ld);
  }
  add_row_sums(gr.b, slopes, maps, ld);
  transpose(turned, wide, x, ld, d, ld);
  product_outer(gr.w, slopes, ld, turned, wide, ld, maps, d, all);
  transpose(turned, tall, t, ld, maps, ld);
  product_outer(gr.cross, slopes, ld, turned, tall, ld, maps, maps, all);
}

// ---- elementwise affine maps: x e^s + t of phi (2, d) = (t, raw), s softly bounded; packed are e^s and s (inverse: of -s) --

template <typename T> void pack_scales(T *to, const T *phi, int d, T bound, int inverse) {
  for (int f = 0; f < d; ++f) {
    T rest;
    const T s = (inverse ? -bound : bound) * tanh_and_rest(phi[d + f] / bound, rest);
    to[f] = exp_(s);
    to[d + f] = s;
  }
}
template <typename T> void unpack_scales(T *gphi, const T *phi, const T *gradients, int d, T bound, int inverse) {
  for (int f = 0; f < d; ++f) {
    T rest;
    tanh_and_rest(phi[d + f] / bound, rest);
    gphi[f] += gradients[d + f];
    gphi[d + f] += (inverse ? -rest : rest) * gradients[f];
  }
}
template <typename T> void scales(const T *packed, const T *phi, int inverse, T *x, T *total, int d, int ld) {
  T sum = 0;
  for (int f = 0; f < d; ++f, x += ld) {
    const T e = packed[f], before = inverse ? phi[f] : T(0), after = inverse ? T(0) : phi[f];
    for (int j = 0; j < ld; ++j) x[j] = (x[j] - before) * e + after;
    sum += packed[d + f];
  }
  for (int j = 0; j < ld; ++j) total[j] += sum;
}
// At the data point x; gradients are of the exponent and of the shift.
template <typename T> void scales_back(const T *packed, int inverse, T *g, const T *gl, const T *x, T *gradients, int d, int ld) {
  for (int f = 0; f < d; ++f, g += ld, x += ld) {
    const T e = packed[f];
    T exponent[64], shift[64];
    for (int j = 0; j < ld; ++j) {
      const T own = g[j], scaled = own * e;
      exponent[j] = (inverse ? own : scaled) * x[j] + gl[j];
      shift[j] = inverse ? -scaled : own;
      g[j] = scaled;
    }
    add_row_sums(gradients + f, exponent, 1, ld);
    add_row_sums(gradients + d + f, shift, 1, ld);
  }
}
