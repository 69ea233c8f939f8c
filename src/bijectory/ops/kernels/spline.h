// Rational-quadratic splines in one pass over memory: forward, inverse, and the pull-back of both.
//
// The same arithmetic as ops/spline.py, block by block: 64 elements stay in the first-level cache while all planes of their
// parameters go by, and every inner loop has a constant length, so that any compiler makes vector code of it.
#pragma once
#include "scalar.h"

enum { W = 64, MOST = 64 };  // elements of a block; largest number of bins
enum { IDENTITY = 0, LINEAR = 1, CIRCULAR = 2 };

template <typename T> struct Grid {
  int bins, tails;
  T bound, min_bin, min_slope, raw_one;
};

// What the bin of every element of a block is: see Bin in ops/spline_bins.py.
template <typename T> struct Block {
  T share[2][MOST][W];  // softmax
  T w[W], h[W], x[W], y[W], raw_left[W], raw_right[W], left[W], right[W], s[W], index[W];
};

template <typename T> inline void load(T *to, const T *from, int n) {
  if (n == W) for (int i = 0; i < W; ++i) to[i] = from[i];
  else for (int i = 0; i < W; ++i) to[i] = i < n ? from[i] : T(0);
}
template <typename T> inline void store(T *to, const T *from, int n) {
  if (n == W) for (int i = 0; i < W; ++i) to[i] = from[i];
  else for (int i = 0; i < n; ++i) to[i] = from[i];
}

template <typename T> inline const T *slope_plane(const T *phi, i64 total, const Grid<T> &g, int knot) {
  const T *raw = phi + i64(2 * g.bins) * total;
  if (g.tails == IDENTITY) return knot == 0 || knot == g.bins ? nullptr : raw + i64(knot - 1) * total;
  if (g.tails == CIRCULAR) return raw + i64(knot % g.bins) * total;
  return raw + i64(knot) * total;
}

template <typename T> void find(Block<T> &b, const T *v, const T *phi, i64 total, i64 at, int n, const Grid<T> &g, int along) {
  const T rest = 1 - g.min_bin * g.bins;
  for (int a = 0; a < 2; ++a) {
    T top[W], sum[W];
    T(*share)[W] = b.share[a];
    for (int k = 0; k < g.bins; ++k) {
      load(share[k], phi + i64(a * g.bins + k) * total + at, n);
      if (k == 0) for (int i = 0; i < W; ++i) top[i] = share[0][i];
      else for (int i = 0; i < W; ++i) top[i] = share[k][i] > top[i] ? share[k][i] : top[i];
    }
    for (int i = 0; i < W; ++i) sum[i] = 0;
    for (int k = 0; k < g.bins; ++k)
      for (int i = 0; i < W; ++i) { share[k][i] = exp_(share[k][i] - top[i]); sum[i] += share[k][i]; }
    for (int i = 0; i < W; ++i) sum[i] = 1 / sum[i];
    for (int k = 0; k < g.bins; ++k)
      for (int i = 0; i < W; ++i) share[k][i] *= sum[i];
  }
  T edge[2][W], plane[W], next[W];
  for (int i = 0; i < W; ++i) {
    edge[0][i] = b.w[i] = g.min_bin + b.share[0][0][i] * rest;
    edge[1][i] = b.h[i] = g.min_bin + b.share[1][0][i] * rest;
    b.x[i] = b.y[i] = b.index[i] = 0;
  }
  const T *p = slope_plane(phi, total, g, 0);
  if (p) load(b.raw_left, p + at, n); else for (int i = 0; i < W; ++i) b.raw_left[i] = 0;
  p = slope_plane(phi, total, g, 1);
  if (p) load(plane, p + at, n); else for (int i = 0; i < W; ++i) plane[i] = 0;
  for (int i = 0; i < W; ++i) b.raw_right[i] = plane[i];
  for (int k = 1; k < g.bins; ++k) {
    p = slope_plane(phi, total, g, k + 1);
    if (p) load(next, p + at, n); else for (int i = 0; i < W; ++i) next[i] = 0;
    const bool last = k == g.bins - 1;
    for (int i = 0; i < W; ++i) {
      const bool beyond = v[i] >= edge[along][i];
      const T fw = last ? 1 - edge[0][i] : g.min_bin + b.share[0][k][i] * rest;
      const T fh = last ? 1 - edge[1][i] : g.min_bin + b.share[1][k][i] * rest;
      b.x[i] = beyond ? edge[0][i] : b.x[i];
      b.y[i] = beyond ? edge[1][i] : b.y[i];
      b.w[i] = beyond ? fw : b.w[i];
      b.h[i] = beyond ? fh : b.h[i];
      b.raw_left[i] = beyond ? plane[i] : b.raw_left[i];
      b.raw_right[i] = beyond ? next[i] : b.raw_right[i];
      b.index[i] = beyond ? T(k) : b.index[i];
      edge[0][i] += fw;
      edge[1][i] += fh;
    }
    for (int i = 0; i < W; ++i) plane[i] = next[i];
  }
  for (int i = 0; i < W; ++i) {
    b.left[i] = softplus_(b.raw_left[i] + g.raw_one) + g.min_slope;
    b.right[i] = softplus_(b.raw_right[i] + g.raw_one) + g.min_slope;
    b.s[i] = b.h[i] / b.w[i];
  }
}

// A point of the box, who was outside, and the whole turns taken.
template <typename T> inline void enter(const T *x, T *inner, T *outside, T *turns, const Grid<T> &g) {
  const T B = g.bound;
  for (int i = 0; i < W; ++i) {
    outside[i] = abs_(x[i]) >= B ? T(1) : T(0);
    turns[i] = 0;
    if (g.tails == LINEAR) {
      inner[i] = x[i] < -B ? -B : (x[i] > B ? B : x[i]);
    } else if (g.tails == CIRCULAR) {
      turns[i] = floor_((x[i] + B) / (2 * B)) * (2 * B);
      inner[i] = x[i] - turns[i];
    } else {
      inner[i] = abs_(x[i]) >= B ? T(0) : x[i];
    }
  }
}

template <typename T> inline T unit(T t) { return t < 0 ? T(0) : (t > 1 ? T(1) : t); }

template <typename T> void forward(const T *x, const T *phi, T *y, T *ladj, i64 total, i64 start, i64 stop, const Grid<T> &g) {
  static thread_local Block<T> b;
  T in[W], inner[W], outside[W], turns[W], u[W], out[W], lad[W];
  for (i64 at = start; at < stop; at += W) {
    const int n = stop - at < W ? int(stop - at) : int(W);
    load(in, x + at, n);
    enter(in, inner, outside, turns, g);
    for (int i = 0; i < W; ++i) u[i] = (inner[i] + g.bound) / (2 * g.bound);
    find(b, u, phi, total, at, n, g, 0);
    for (int i = 0; i < W; ++i) {
      const T t = unit((u[i] - b.x[i]) / b.w[i]), r = 1 - t;
      const T lower = b.s[i] * t + b.left[i] * r, upper = b.s[i] * r + b.right[i] * t;
      const T num = t * lower, den = num + r * upper, top = t * upper + r * lower;
      const T ratio = b.s[i] / den, slope = top * ratio * ratio;
      const T inside = ((b.y[i] + b.h[i] * (num / den)) - T(0.5)) * (2 * g.bound), l = log_(slope);
      const bool far = g.tails == IDENTITY && outside[i] > 0;
      out[i] = far ? in[i] : inside + (g.tails == LINEAR ? (in[i] - inner[i]) * slope : turns[i]);
      lad[i] = far ? T(0) : l;
    }
    store(y + at, out, n);
    store(ladj + at, lad, n);
  }
}

template <typename T> void inverse(const T *y, const T *phi, T *x, T *ladj, i64 total, i64 start, i64 stop, const Grid<T> &g) {
  static thread_local Block<T> b;
  T in[W], inner[W], outside[W], turns[W], v[W], out[W], lad[W];
  for (i64 at = start; at < stop; at += W) {
    const int n = stop - at < W ? int(stop - at) : int(W);
    load(in, y + at, n);
    enter(in, inner, outside, turns, g);
    for (int i = 0; i < W; ++i) v[i] = (inner[i] + g.bound) / (2 * g.bound);
    find(b, v, phi, total, at, n, g, 1);
    for (int i = 0; i < W; ++i) {
      const T theta = unit((v[i] - b.y[i]) / b.h[i]), left_over = 1 - theta, s = b.s[i];
      const T e = b.left[i] * left_over - b.right[i] * theta;
      const T p = 2 * s * theta, cross = p * (2 * s) * left_over;
      const T m = sqrt_(cross + e * e) + abs_(e);
      const T q = e >= 0 ? m : cross / m;
      const T sum = p + q, t = p / sum, r = q / sum;
      const T lower = s * t + b.left[i] * r, upper = s * r + b.right[i] * t;
      const T num = t * lower, den = num + r * upper, top = t * upper + r * lower;
      const T ratio = s / den, slope = top * ratio * ratio;
      const T inside = ((b.x[i] + b.w[i] * t) - T(0.5)) * (2 * g.bound), l = log_(slope);
      const bool far = g.tails == IDENTITY && outside[i] > 0;
      out[i] = far ? in[i] : inside + (g.tails == LINEAR ? (in[i] - inner[i]) / slope : turns[i]);
      lad[i] = far ? T(0) : -l;
    }
    store(x + at, out, n);
    store(ladj + at, lad, n);
  }
}

// The pull-back of `_pull` in ops/spline.py, at the data point x.
template <typename T>
void pull(const T *x, const T *phi, const T *g_out, const T *g_ladj, T *g_x, T *g_phi, i64 total, i64 start, i64 stop, const Grid<T> &g, int inv) {
  static thread_local Block<T> b;
  const T B2 = 2 * g.bound, rest = 1 - g.min_bin * g.bins;
  T in[W], inner[W], outside[W], turns[W], u[W], go[W], gl[W], gin[W], gleft[W], gright[W];
  T before[2][W], own[2][W], mean[2][W], plane[W];
  for (i64 at = start; at < stop; at += W) {
    const int n = stop - at < W ? int(stop - at) : int(W);
    load(in, x + at, n);
    load(go, g_out + at, n);
    load(gl, g_ladj + at, n);
    enter(in, inner, outside, turns, g);
    for (int i = 0; i < W; ++i) u[i] = (inner[i] + g.bound) / B2;
    find(b, u, phi, total, at, n, g, 0);
    for (int i = 0; i < W; ++i) {
      const T w = b.w[i], h = b.h[i], s = b.s[i], d0 = b.left[i], d1 = b.right[i];
      const T t = unit((u[i] - b.x[i]) / w), r = 1 - t;
      const T lower = s * t + d0 * r, upper = s * r + d1 * t;
      const T num = t * lower, den = num + r * upper, top = t * upper + r * lower;
      const T ratio = s / den;
      T slope = top * ratio * ratio;
      const T bend = 2 * ((d1 * t - d0 * r + s * (r - t)) / top - (r - t) * (d0 + d1 - 2 * s) / den) / w;
      T curvature = bend / B2;
      const bool out = outside[i] > 0, far = g.tails == IDENTITY && out;
      slope = far ? T(1) : slope;
      curvature = g.tails != CIRCULAR && out ? T(0) : curvature;
      T gy = go[i], gld = gl[i];
      if (inv) {
        gin[i] = (gy - gld * curvature) / slope;
        gy = -gin[i];
        gld = -gld;
      } else {
        gin[i] = gy * slope + gld * curvature;
      }
      gy = far ? T(0) : gy;
      gld = far ? T(0) : gld;
      gld += g.tails == LINEAR ? gy * (in[i] - inner[i]) * slope : T(0);
      const T gv = gy * B2, tt = t * t, q = t * r, rr = r * r;
      const T f = num / den, gnum = gv * h / den, gtop = gld / top;
      const T gden = -(2 * gld / den + gnum * f);
      const T gs = gnum * tt + gden * (tt + rr) + 2 * (gld / s + gtop * q);
      const T gu = gv * slope + gld * bend;
      gleft[i] = ((gnum + gden) * q + gtop * rr) * sigmoid_(b.raw_left[i] + g.raw_one);
      gright[i] = (gden * q + gtop * tt) * sigmoid_(b.raw_right[i] + g.raw_one);
      before[0][i] = -gu * rest;
      before[1][i] = gv * rest;
      own[0][i] = (-gu * t - gs * s / w) * rest;
      own[1][i] = (gv * f + gs / w) * rest;
      const T place = b.index[i] * g.min_bin;
      mean[0][i] = (before[0][i] * (b.x[i] - place) + own[0][i] * (w - g.min_bin)) / rest;
      mean[1][i] = (before[1][i] * (b.y[i] - place) + own[1][i] * (h - g.min_bin)) / rest;
    }
    store(g_x + at, gin, n);
    for (int a = 0; a < 2; ++a)
      for (int k = 0; k < g.bins; ++k) {
        for (int i = 0; i < W; ++i) {
          const T part = T(k) < b.index[i] ? before[a][i] : (T(k) == b.index[i] ? own[a][i] : T(0));
          plane[i] = (part - mean[a][i]) * b.share[a][k][i];
        }
        store(g_phi + i64(a * g.bins + k) * total + at, plane, n);
      }
    const int first = g.tails == IDENTITY ? 1 : 0, knots = g.tails == LINEAR ? g.bins + 1 : g.bins;
    for (int knot = first; knot < knots; ++knot) {
      const T other = g.tails == CIRCULAR && knot == 0 ? T(g.bins - 1) : T(knot - 1);
      for (int i = 0; i < W; ++i)
        plane[i] = (b.index[i] == T(knot) ? gleft[i] : T(0)) + (b.index[i] == other ? gright[i] : T(0));
      store(g_phi + i64(2 * g.bins + knot - first) * total + at, plane, n);
    }
  }
}
