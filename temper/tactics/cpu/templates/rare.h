/* Scalar functions that few models need: functions in double, half precision, remainders, integer powers. After vmath.h.
 *
 * Accuracy of d_*: a few ulp of double over all finite arguments; a float32 result is rounded from them once. */
#ifndef TEMPER_RARE_H
#define TEMPER_RARE_H

INLINE double d_bits(uint64_t b) { double x; __builtin_memcpy(&x, &b, 8); return x; }
INLINE uint64_t bits_d(double x) { uint64_t b; __builtin_memcpy(&b, &x, 8); return b; }
INLINE float f_bits(uint32_t b) { float x; __builtin_memcpy(&x, &b, 4); return x; }
INLINE uint32_t bits_f(float x) { uint32_t b; __builtin_memcpy(&b, &x, 4); return b; }
INLINE double d_abs(double x) { return __builtin_elementwise_abs(x); }
INLINE double d_sqrt(double x) { return __builtin_elementwise_sqrt(x); }
#define D_INF __builtin_inf()
#define D_NAN __builtin_nan("")

/* Nearest whole number, ties to even, of any double. */
INLINE double d_rint(double x) {
  const double m = 4503599627370496.0, a = d_abs(x);
  if (!(a < m)) return x;
  const double r = (a + m) - m;
  return x < 0 || (x == 0 && bits_d(x) >> 63) ? -r : r;
}
INLINE double d_floor(double x) { const double r = d_rint(x); return r > x ? r - 1 : r; }
INLINE double d_ceil(double x) { const double r = d_rint(x); return r < x ? r + 1 == 0 ? -0.0 : r + 1 : r; }

/* e^x = 2^n e^r, |r| <= ln2/2, by the exponential series to r^13. */
INLINE double d_exp(double x) {
  if (x != x) return x;
  if (x > 709.8) return D_INF;
  if (x < -745.2) return 0;
  const double n = d_rint(x * 1.4426950408889634);
  const double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r + 1.0;
  const int64_t k = (int64_t)n, h = k >> 1;
  return p * d_bits((uint64_t)(h + 1023) << 52) * d_bits((uint64_t)(k - h + 1023) << 52);
}

/* log(2^e (1+f)/(1)) with m in [sqrt(1/2), sqrt(2)): s = (m-1)/(m+1), log m = 2 atanh s, |s| <= 0.1716. */
INLINE double d_log(double x) {
  if (x != x || x < 0) return x < 0 ? D_NAN : x;
  if (x == 0) return -D_INF;
  if (x == D_INF) return x;
  int64_t e = 0;
  if (x < 0x1p-1022) { x *= 0x1p54; e = -54; }
  const uint64_t b = bits_d(x) - 0x3fe6a09e667f3bcdull;
  e += (int64_t)b >> 52;
  const double m = d_bits((b & 0xfffffffffffffull) + 0x3fe6a09e667f3bcdull);
  const double s = (m - 1) / (m + 1), z = s * s;
  double p = 1.0 / 25;
  for (int k = 23; k >= 3; k -= 2) p = p * z + 1.0 / k;
  return (double)e * 0x1.62e42fee00000p-1 + ((double)e * 0x1.a39ef35793c76p-33 + (2 * s * z * p + 2 * s));
}
/* log(1 + y), relative to y. */
INLINE double d_log1p(double y) {
  const double u = 1 + y;
  return u == 1 ? y : u == D_INF ? u : d_log(u) * (y / (u - 1));
}

INLINE double d_atan(double x) {
  const double a = d_abs(x);
  if (a != a) return x;
  double t = a > 1 ? 1 / a : a, base = 0;
  if (t > 0.2679491924311227) {
    t = (t * 1.7320508075688772 - 1) / (1.7320508075688772 + t);
    base = 0.52359877559829887;
  }
  const double z = t * t;
  double p = 1.0 / 33;
  for (int k = 31; k >= 3; k -= 2) p = 1.0 / k - z * p;
  double r = base + (t - t * z * p);
  if (a > 1) r = 1.5707963267948966 - r;
  return bits_d(x) >> 63 ? -r : r;
}
INLINE double d_asin(double x) { return d_abs(x) > 1 ? D_NAN : d_abs(x) == 1 ? x * 1.5707963267948966 : d_atan(x / d_sqrt((1 - x) * (1 + x))); }
INLINE double d_acos(double x) { return d_abs(x) > 1 || x != x ? D_NAN : x == -1 ? 3.1415926535897931 : 2 * d_atan(d_sqrt((1 - x) / (1 + x))); }
INLINE double d_sinh(double x) {
  if (d_abs(x) > 0.5) {
    const double h = d_exp(0.5 * d_abs(x)), s = d_abs(x) > 40 ? 0.5 * h * h : 0.5 * (h * h - 1 / (h * h));
    return x < 0 ? -s : s;
  }
  const double z = x * x;
  return x + x * z * (1.0 / 6 + z * (1.0 / 120 + z * (1.0 / 5040 + z * (1.0 / 362880 + z * (1.0 / 39916800 + z / 6227020800.0)))));
}
INLINE double d_cosh(double x) { const double h = d_exp(0.5 * d_abs(x)); return 0.5 * h * h + 0.5 / (h * h); }
INLINE double d_tanh(double x) {
  const double a = d_abs(x);
  if (a != a) return x;
  const double s = a > 20 ? 1 : a < 0.25 ? d_sinh(a) / d_cosh(a) : 1 - 2 / (d_exp(2 * a) + 1);
  return bits_d(x) >> 63 ? -s : s;
}
INLINE double d_sigmoid(double x) {
  const double z = d_exp(-d_abs(x));
  return x >= 0 ? 1 / (1 + z) : z / (1 + z);
}
INLINE double d_softplus(double x) { return (x > 0 ? x : x != x ? x : 0) + d_log1p(d_exp(-d_abs(x))); }
INLINE double d_asinh(double x) {
  const double a = d_abs(x), r = a > 1e15 ? d_log(a) + 0.69314718055994531 : d_log1p(a + a * a / (1 + d_sqrt(a * a + 1)));
  return bits_d(x) >> 63 ? -r : r;
}
INLINE double d_acosh(double x) {
  const double t = x - 1;
  return x < 1 ? D_NAN : x > 1e15 ? d_log(x) + 0.69314718055994531 : d_log1p(t + d_sqrt(2 * t + t * t));
}
INLINE double d_atanh(double x) {
  const double a = d_abs(x), r = a > 1 ? D_NAN : 0.5 * d_log1p(2 * a / (1 - a));
  return bits_d(x) >> 63 ? -r : r;
}
/* Tangent of a float: the argument less its nearest multiple of pi/2, then sine over cosine by their series. */
INLINE float f_tan(float x) {
  if (!(__builtin_elementwise_abs(x) < V_INF)) return V_NAN;
  int32_t k;
  double r;
  if (__builtin_elementwise_abs(x) > 1e6f) {
    r = v_reduce_far(x, &k);
  } else {
    const double n = d_rint((double)x * 0.63661977236758134);
    r = ((double)x - n * 1.5707963267341256) - n * 6.0771005065061922e-11;
    k = (int32_t)n;
  }
  const double z = r * r;
  double s = 1.0 / 6227020800.0, c = 1.0 / 479001600.0;
  s = s * z - 1.0 / 39916800.0; s = s * z + 1.0 / 362880.0; s = s * z - 1.0 / 5040.0; s = s * z + 1.0 / 120.0; s = s * z - 1.0 / 6.0;
  s = s * z * r + r;
  c = c * z - 1.0 / 3628800.0; c = c * z + 1.0 / 40320.0; c = c * z - 1.0 / 720.0; c = c * z + 1.0 / 24.0; c = c * z - 0.5;
  c = c * z + 1;
  return x == 0 ? x : (float)(k & 1 ? -c / s : s / c);
}

/* The remainder of x / y with the sign of x, exact: long division, one quotient bit a step. */
INLINE double d_fmod(double x, double y) {
  double a = d_abs(x), b = d_abs(y);
  if (!(a < D_INF) || b == 0 || b != b) return D_NAN;
  if (a < b) return x;
  double c = b;
  while (c <= a * 0.5) c *= 2;
  while (1) {
    if (a >= c) a -= c;
    if (c == b) break;
    c *= 0.5;
  }
  return bits_d(x) >> 63 ? -a : a;
}
#define RARE_INT(T)                                                                                            \
  INLINE OVL T v_fmod(T a, T b) { return b == 0 || ((T)-1 < 0 && b == (T)-1) ? (T)0 : (T)(a % b); }            \
  INLINE OVL T v_ipow(T x, int64_t n) {                                                                        \
    if (n < 0) return x == 1 ? (T)1 : (T)-1 < 0 && x == (T)-1 ? (n & 1 ? (T)-1 : (T)1) : (T)0;                 \
    uint64_t r = 1, b = (uint64_t)x;                                                                           \
    for (; n; n >>= 1, b *= b) if (n & 1) r *= b;                                                              \
    return (T)r;                                                                                               \
  }                                                                                                            \
  INLINE OVL T v_shl(T x, T n) { return n >= (T)(8 * sizeof(T)) || n < 0 ? (T)0 : (T)((uint64_t)x << n); }     \
  INLINE OVL T v_shr(T x, T n) { return n >= (T)(8 * sizeof(T)) || n < 0 ? (T)(x < 0 ? -1 : 0) : (T)(x >> n); }
RARE_INT(int8_t) RARE_INT(uint8_t) RARE_INT(int16_t) RARE_INT(uint16_t) RARE_INT(int32_t) RARE_INT(uint32_t) RARE_INT(int64_t)
RARE_INT(uint64_t)
INLINE OVL float v_fmod(float a, float b) { return (float)d_fmod(a, b); }
INLINE OVL double v_fmod(double a, double b) { return d_fmod(a, b); }
/* The remainder with the sign of y. */
INLINE OVL double v_mod(double a, double b) {
  const double r = d_fmod(a, b);
  return r == 0 ? d_bits(bits_d(0.0) | (bits_d(b) & 0x8000000000000000ull)) : (r < 0) != (b < 0) ? r + b : r;
}
INLINE OVL float v_mod(float a, float b) {
  const float r = (float)d_fmod(a, b);
  return r == 0 ? f_bits(bits_f(b) & 0x80000000u) : (r < 0) != (b < 0) ? r + b : r;
}

/* x^y: whole exponents by squaring, exact where every product is; others as e^(y log x), to about |y log x| ulp of double. */
INLINE double d_pow(double x, double y) {
  const double a = d_abs(x), n = d_abs(y);
  if (y == 0 || x == 1) return 1;
  if (x != x || y != y) return D_NAN;
  const int whole = d_rint(y) == y, odd = whole && n < 0x1p53 && ((int64_t)n & 1);
  if (whole && n < 0x1p31) {
    double r = 1, b = x;
    for (int64_t k = (int64_t)n;;) {
      if (k & 1) r *= b;
      if (!(k >>= 1)) break;
      b *= b;
    }
    return y < 0 ? 1 / r : r;
  }
  if (x == -1 && n == D_INF) return 1;
  if (x < 0 && !whole && a < D_INF) return D_NAN;
  const double r = a == 0 ? (y < 0 ? D_INF : 0) : a == D_INF ? (y < 0 ? 0 : D_INF) : d_exp(y * d_log(a));
  return odd && bits_d(x) >> 63 ? -r : r;
}
/* What d_pow's rounding moved off a whole number goes back to it. */
INLINE double d_whole(double x) {
  const double r = d_rint(x);
  return d_abs(x - r) <= 1e-14 * d_abs(x) ? r : x;
}

/* Half precision travels as its bits. */
INLINE float half_f(uint16_t h) {
#if defined(__F16C__)
  _Float16 x;
  __builtin_memcpy(&x, &h, 2);
  return (float)x;
#else
  const uint32_t s = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
  if (e == 31) return f_bits(s | 0x7f800000 | m << 13);
  if (e) return f_bits(s | (e + 112) << 23 | m << 13);
  const float r = (float)m * 0x1p-24f;
  return s ? -r : r;
#endif
}
INLINE uint16_t f_half(float x) {
#if defined(__F16C__)
  const _Float16 h = (_Float16)x;
  uint16_t b;
  __builtin_memcpy(&b, &h, 2);
  return b;
#else
  const uint32_t b = bits_f(x), s = b >> 16 & 0x8000, a = b & 0x7fffffff;
  if (a > 0x7f800000) return (uint16_t)(s | 0x7e00 | (a >> 13 & 0x3ff));
  if (a >= 0x477ff000) return (uint16_t)(s | 0x7c00);
  if (a < 0x38800000) { /* below the least normal: a sum with 0.5 rounds at 2^-24 */
    const uint32_t r = bits_f(f_bits(a) + 0.5f) - 0x3f000000;
    return (uint16_t)(s | r);
  }
  return (uint16_t)(s | ((a + 0xfff + (a >> 13 & 1)) >> 13) - 0x1c000);
#endif
}
/* A double to float, rounded to odd, so that a second rounding gives what one would. */
INLINE float d_odd(double x) {
  const float f = (float)x;
  if ((double)f == x || x != x || d_abs(x) > 0x1.fffffep127) return f;
  uint32_t b = bits_f(f);
  if (d_abs((double)f) > d_abs(x)) b -= 1;
  return f_bits(b | 1);
}
INLINE uint16_t d_half(double x) { return f_half(d_odd(x)); }
INLINE float brain_f(uint16_t b) { return f_bits((uint32_t)b << 16); }
INLINE uint16_t f_brain(float x) {
  const uint32_t b = bits_f(x);
  return (uint16_t)(x != x ? b >> 16 | 0x40 : (b + 0x7fff + (b >> 16 & 1)) >> 16);
}
#endif
