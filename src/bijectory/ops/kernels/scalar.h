// exp, log and what is made of them, as plain arithmetic that a compiler turns into vector code.
//
// Nothing of the standard library is used: exp and log are polynomials, accurate to about one unit in the last place.
// NaN stays NaN; no value decides about control flow.
#pragma once

typedef long long i64;

template <typename T> struct Bits;
template <> struct Bits<float> {
  typedef unsigned U;
  typedef int I;
  enum { MANT = 23, BIAS = 127, EXP_TERMS = 7, LOG_TERMS = 5, LOG1P_TERMS = 8 };
  static constexpr float LOW = -87.0f, HIGH = 88.0f, LN2_HI = 0.693359375f, LN2_LO = -2.12194440e-4f;
};
template <> struct Bits<double> {
  typedef unsigned long long U;
  typedef i64 I;
  enum { MANT = 52, BIAS = 1023, EXP_TERMS = 13, LOG_TERMS = 11, LOG1P_TERMS = 17 };
  static constexpr double LOW = -708.0, HIGH = 709.0, LN2_HI = 6.93145751953125e-1, LN2_LO = 1.42860682030941723212e-6;
};

template <typename T> inline T from_bits(typename Bits<T>::U u) { T x; __builtin_memcpy(&x, &u, sizeof x); return x; }
template <typename T> inline typename Bits<T>::U to_bits(T x) { typename Bits<T>::U u; __builtin_memcpy(&u, &x, sizeof u); return u; }

// 1 / k! as a table that exists at compile time: a recursive function is called for every number where the series is long.
template <typename T> struct Factorials {
  T one_over[Bits<T>::EXP_TERMS + 1];
  constexpr Factorials() : one_over() {
    T product = 1;
    for (int k = 0; k <= Bits<T>::EXP_TERMS; ++k) {
      product *= k ? T(k) : T(1);
      one_over[k] = T(1) / product;
    }
  }
};

template <typename T> inline T exp_(T x) {
  typedef Bits<T> B;
  x = x < B::LOW ? B::LOW : x;
  x = x > B::HIGH ? B::HIGH : x;
  const T round = T(1.5) * T(typename B::U(1) << B::MANT);  // added and taken off again, it leaves the nearest whole number
  const T n = (x * T(1.44269504088896340736) + round) - round;
  T r = (x - n * B::LN2_HI) - n * B::LN2_LO;
  constexpr Factorials<T> f;
  T p = f.one_over[B::EXP_TERMS];
#pragma GCC unroll 32
  for (int k = B::EXP_TERMS - 1; k >= 0; --k) p = p * r + f.one_over[k];
  return p * from_bits<T>((typename B::U)((typename B::I)n + B::BIAS) << B::MANT);
}

// exp, and without its rounding exp - 1.
template <typename T> inline T exp_parts(T x, T &less_one) {
  typedef Bits<T> B;
  x = x < B::LOW ? B::LOW : x;
  x = x > B::HIGH ? B::HIGH : x;
  const T round = T(1.5) * T(typename B::U(1) << B::MANT);
  const T n = (x * T(1.44269504088896340736) + round) - round;
  T r = (x - n * B::LN2_HI) - n * B::LN2_LO;
  constexpr Factorials<T> f;
  T p = f.one_over[B::EXP_TERMS];
#pragma GCC unroll 32
  for (int k = B::EXP_TERMS - 1; k > 0; --k) p = p * r + f.one_over[k];
  const T power = from_bits<T>((typename B::U)((typename B::I)n + B::BIAS) << B::MANT);
  p *= r;
  less_one = p * power + (power - 1);
  return p * power + power;
}

template <int TERMS, typename T> inline T atanh_series(T s) {  // 2 atanh(s)
  T q = s * s, p = 0;
#pragma GCC unroll 32
  for (int k = TERMS; k >= 0; --k) p = p * q + T(1) / T(2 * k + 1);
  return 2 * s * p;
}

template <typename T> inline T log_(T x) {  // of positive normal numbers
  typedef Bits<T> B;
  typename B::U u = to_bits(x);
  typename B::I e = (typename B::I)(u >> B::MANT) - B::BIAS;
  T m = from_bits<T>((u & ((typename B::U(1) << B::MANT) - 1)) | (typename B::U(B::BIAS) << B::MANT));
  T big = m > T(1.41421356237309504880) ? T(1) : T(0);
  m = m - big * m * T(0.5);
  T n = T(e) + big;
  return n * B::LN2_HI + (n * B::LN2_LO + atanh_series<B::LOG_TERMS>((m - 1) / (m + 1))) + (x - x);
}

template <typename T> inline T abs_(T x);
template <> inline float abs_(float x) { return __builtin_fabsf(x); }
template <> inline double abs_(double x) { return __builtin_fabs(x); }
template <typename T> inline T sqrt_(T x);
template <> inline float sqrt_(float x) { return __builtin_sqrtf(x); }
template <> inline double sqrt_(double x) { return __builtin_sqrt(x); }
template <typename T> inline T floor_(T x);
template <> inline float floor_(float x) { return __builtin_floorf(x); }
template <> inline double floor_(double x) { return __builtin_floor(x); }

template <typename T> inline T softplus_(T v) {
  T e = exp_(-abs_(v));
  return T(0.5) * (v + abs_(v)) + atanh_series<Bits<T>::LOG1P_TERMS>(e / (2 + e));
}
template <typename T> inline T sigmoid_(T v) {
  T e = exp_(-abs_(v));
  return (v >= 0 ? T(1) : e) / (1 + e);
}

