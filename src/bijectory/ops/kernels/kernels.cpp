// What Python calls, compiled for one type of numbers: -DREAL=float or -DREAL=double.
#include "field.h"
#include "layers.h"
#include "spline.h"

typedef REAL T;

static Grid<T> grid(int bins, int tails, double bound, double min_bin, double min_slope, double raw_one) {
  return {bins, tails, T(bound), T(min_bin), T(min_slope), T(raw_one)};
}

extern "C" {
void spline_forward(const T *x, const T *phi, T *y, T *ladj, i64 total, i64 start, i64 stop, int bins, int tails, double bound,
                    double min_bin, double min_slope, double raw_one) {
  forward<T>(x, phi, y, ladj, total, start, stop, grid(bins, tails, bound, min_bin, min_slope, raw_one));
}
void spline_inverse(const T *y, const T *phi, T *x, T *ladj, i64 total, i64 start, i64 stop, int bins, int tails, double bound,
                    double min_bin, double min_slope, double raw_one) {
  inverse<T>(y, phi, x, ladj, total, start, stop, grid(bins, tails, bound, min_bin, min_slope, raw_one));
}
void spline_pull(const T *x, const T *phi, const T *g_out, const T *g_ladj, T *g_x, T *g_phi, i64 total, i64 start, i64 stop,
                 int bins, int tails, double bound, double min_bin, double min_slope, double raw_one, int inv) {
  pull<T>(x, phi, g_out, g_ladj, g_x, g_phi, total, start, stop, grid(bins, tails, bound, min_bin, min_slope, raw_one), inv);
}
i64 layers_space(const Layer *l, int layers, int back) { return Space<T>(l, layers, nullptr, back).size; }
void layers_run(const Layer *l, int layers, const T *const *tensors, const T *x, i64 by_feature, i64 by_row, T *y, T *ladj,
                i64 batch, T *points, T *sums, T *space, i64 block0, i64 block1) {
  run<T>(l, layers, tensors, x, by_feature, by_row, y, ladj, batch, points, sums, space, block0, block1);
}
void layers_back(const Layer *l, int layers, const T *const *tensors, const T *points, const T *sums, const T *gy,
                 i64 by_feature, i64 by_row, const T *gladj, i64 gladj_by_row, T *gx, T *const *gradients, i64 batch, T *space,
                 i64 block0, i64 block1) {
  run_back<T>(l, layers, tensors, points, sums, gy, by_feature, by_row, gladj, gladj_by_row, gx, gradients, batch, space, block0, block1);
}
i64 field_space(const Field *f, int back) { return Room<T>(*f, nullptr, back).size; }
void field_solve(const Field *f, const T *const *tensors, const T *x, i64 by_feature, i64 by_row, T *y, T *ladj, i64 batch,
                 T *points, T *space, i64 block0, i64 block1) {
  SMOOTH(solve, *f, tensors, x, by_feature, by_row, y, ladj, batch, points, space, block0, block1)
}
void field_back(const Field *f, const T *const *tensors, const T *points, const T *gy, i64 by_feature, i64 by_row, const T *gladj,
                i64 gladj_by_row, T *gx, T *const *gradients, i64 batch, T *space, i64 block0, i64 block1) {
  SMOOTH(solve_back, *f, tensors, points, gy, by_feature, by_row, gladj, gladj_by_row, gx, gradients, batch, space, block0, block1)
}
}
