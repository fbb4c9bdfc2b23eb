/* Float32 math on vectors and scalars, without libc: overloaded, so that one expression serves vf and float.
 *
 * Accuracy against the exact result, in ulp, over all finite inputs: exp 1.5, sigmoid 3 (0 below FLT_MIN), tanh 3, log 1.5, erf 2,
 * pow 1; sin and cos 1.2e-7 absolute. Infinities, NaN and signed zeros behave as in numpy; max, min, relu and clip
 * propagate NaN.
 * Needs vec.h before it. Polynomial coefficients are minimax fits (Lawson iteration) on the reduced intervals named beside them. */
#ifndef TEMPER_VMATH_H
#define TEMPER_VMATH_H

#define OVL __attribute__((overloadable))
#define V_INF __builtin_inff()
#define V_NAN __builtin_nanf("")

typedef double vd __attribute__((vector_size(8 * VL)));
typedef int64_t vl __attribute__((vector_size(8 * VL)));
typedef uint8_t vb __attribute__((vector_size(VL)));
typedef uint8_t vb_any __attribute__((vector_size(VL), aligned(1), may_alias));

INLINE vf v_xsign(vf a, vf b) { return (vf)((vi)a ^ ((vi)b & (int32_t)0x80000000)); }
INLINE OVL vf v_copysign(vf a, vf b) { return (vf)(((vi)a & 0x7fffffff) | ((vi)b & (int32_t)0x80000000)); }
INLINE OVL vf v_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE OVL vi v_abs(vi x) { return __builtin_elementwise_abs(x); }
INLINE OVL vf v_neg(vf x) { return -x; }
INLINE OVL vi v_neg(vi x) { return -x; }

/* Selection in the operand order of x86's max/min, where a NaN in the second operand wins: one instruction. */
INLINE vf v_maxr(vf a, vf b) { return sel(a > b, a, b); }
INLINE vf v_minr(vf a, vf b) { return sel(a < b, a, b); }
INLINE OVL vf v_max(vf a, vf b) { return sel(a == a, v_maxr(a, b), a); }
INLINE OVL vf v_min(vf a, vf b) { return sel(a == a, v_minr(a, b), a); }
INLINE OVL vi v_max(vi a, vi b) { return __builtin_elementwise_max(a, b); }
INLINE OVL vi v_min(vi a, vi b) { return __builtin_elementwise_min(a, b); }
INLINE OVL vf v_relu(vf x) { return v_maxr((vf){}, x); }
INLINE OVL vi v_relu(vi x) { return __builtin_elementwise_max(x, (vi){}); }
INLINE OVL vf v_atleast(vf x, float lo) { return v_maxr(splat(lo), x); }
INLINE OVL vf v_atmost(vf x, float hi) { return v_minr(splat(hi), x); }
INLINE OVL vf v_where(vi m, vf a, vf b) { return sel(m, a, b); }
INLINE OVL vi v_where(vi m, vi a, vi b) { return (a & m) | (b & ~m); }
INLINE OVL vi v_not(vi m) { return ~m; }
INLINE OVL uint8_t v_not(uint8_t m) { return !m; }

INLINE OVL vf v_round(vf x) {
#if defined(__SSE4_1__)
  return __builtin_elementwise_roundeven(x);
#else
  vf m = splat(8388608.0f), a = v_abs(x);
  return v_copysign(sel(a < m, (a + m) - m, a), x);
#endif
}
INLINE OVL vf v_floor(vf x) {
#if defined(__SSE4_1__)
  return __builtin_elementwise_floor(x);
#else
  vf r = v_round(x);
  return v_copysign(r - sel(r > x, splat(1.0f), (vf){}), x);
#endif
}
INLINE OVL vf v_ceil(vf x) { return v_neg(v_floor(v_neg(x))); }
INLINE OVL vf v_trunc(vf x) { return v_copysign(v_floor(v_abs(x)), x); }
INLINE OVL vf v_sqrt(vf x) { return __builtin_elementwise_sqrt(x); }
INLINE OVL vf v_sign(vf x) { return sel(x > 0.0f, splat(1.0f), sel(x < 0.0f, splat(-1.0f), sel(x == x, (vf){}, x))); }
INLINE OVL vi v_sign(vi x) { return (x < 0) - (x > 0); }

/* p * 2^n for |n| <= 160, overflowing and underflowing as one correctly rounded multiplication. */
INLINE vf v_scale(vf p, vi n) {
  vi h = n >> 1;
  return p * (vf)((h + 127) << 23) * (vf)((n - h + 127) << 23);
}

/* Splits x = n*ln2 + r, |r| <= 0.347, for |x| <= 105; returns c with e^r = 1 + r + c*r^2. */
INLINE vf v_exp_split(vf x, vf *r, vf *nf, vi *n) {
  vf magic = splat(12582912.0f);
  vf t = FMA(x, splat(0x1.715476p+0f), magic);
  *n = (vi)t - (vi)magic;
  *nf = t - magic;
  vf a = FMA(*nf, splat(-0.693359375f), x);
  a = FMA(*nf, splat(2.12194440e-4f), a);
  *r = a;
  vf c = FMA(splat(0x1.6a2352p-10f), a, splat(0x1.123a6cp-7f));
  c = FMA(c, a, splat(0x1.5558f4p-5f));
  c = FMA(c, a, splat(0x1.555490p-3f));
  return FMA(c, a, splat(0x1.fffffcp-2f));
}

#if VL == 16
static const float v_exp_table[16] __attribute__((aligned(64))) = { /* 2^(j/16) */
  0x1.000000p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fe0p+0f, 0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
  0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f, 0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
#endif

/* e^x for |x| <= 105. AVX-512: x = (n + j/16)*ln2 + r, |r| <= 0.022, with 2^(j/16) from a register; n + j/16 has 4 bits behind the point. */
INLINE vf v_exp_within(vf x) {
#if VL == 16
  vf magic = splat(0x1.8p+19f), t = FMA(x, splat(0x1.715476p+0f), magic), nf = t - magic;
  vf r = FMA(nf, splat(0x1.05c610p-29f), FMA(nf, splat(-0x1.62e430p-1f), x));
  vf two = (vf)_mm512_permutexvar_ps((__m512i)t, _mm512_load_ps(v_exp_table));
  vf p = FMA(FMA(splat(0x1.55585ap-3f), r, splat(0x1.000236p-1f)), r, splat(1.0f));
  return (vf)_mm512_scalef_ps((__m512)FMA(two * r, p, two), (__m512)nf);
#else
  vf r, nf, one = splat(1.0f);
  vi n;
  vf c = v_exp_split(x, &r, &nf, &n);
  return v_scale(FMA(FMA(c, r, one), r, one), n);
#endif
}

INLINE OVL vf v_exp(vf x) { return v_exp_within(v_maxr(splat(-104.0f), v_minr(splat(89.0f), x))); }

/* e^x - 1 for x <= 0. */
INLINE vf v_expm1_neg(vf x) {
  vf r, nf;
  vi n;
  vf c = v_exp_split(v_maxr(splat(-80.0f), x), &r, &nf, &n);
  vf s = (vf)((n + 127) << 23);
  return FMA(s, FMA(c, r * r, r), s - 1.0f);
}

/* 1/(1 + e^-x). Where e^-x overflows, the result, below the smallest normal number, becomes 0.
 * A division is one instruction beside the multiply-adds; an estimate refined by them was slower (measured: Zen 5, 1.3 to 1.7 ns). */
INLINE OVL vf v_sigmoid(vf x) {
  return 1.0f / (1.0f + v_exp_within(-v_maxr(splat(-104.0f), v_minr(splat(104.0f), x))));
}
/* x/(1 + e^-x) */
INLINE OVL vf v_silu(vf x) {
#if VL == 16
  vf y = (vf)_mm512_range_ps((__m512)x, (__m512)splat(104.0f), 2); /* the smaller magnitude, with the sign of x; NaN comes back below */
#else
  vf y = v_maxr(splat(-104.0f), v_minr(splat(104.0f), x));
#endif
  return x / (1.0f + v_exp_within(-y));
}

INLINE OVL vf v_tanh(vf x) {
  vf t = v_expm1_neg(v_maxr(splat(-40.0f), -2.0f * v_abs(x)));
  return v_copysign(-t / (2.0f + t), x);
}

/* log(1+f) for |1+f| in [sqrt(1/2), sqrt(2)], plus e*ln2. */
INLINE vf v_log_reduced(vf f, vf e) {
  vf s = f * f;
  vf q = FMA(splat(-0x1.38b582p-4f), f, splat(0x1.055b72p-3f));
  q = FMA(q, f, splat(-0x1.0d8544p-3f));
  q = FMA(q, f, splat(0x1.22da1cp-3f));
  q = FMA(q, f, splat(-0x1.547244p-3f));
  q = FMA(q, f, splat(0x1.99a008p-3f));
  q = FMA(q, f, splat(-0x1.000226p-2f));
  q = FMA(q, f, splat(0x1.555554p-2f));
  q = q * f * s;
  q = FMA(e, splat(-2.12194440e-4f), q);
  q = FMA(splat(-0.5f), s, q);
  return FMA(e, splat(0.693359375f), f + q);
}

INLINE OVL vf v_log(vf x) {
  vi tiny = x < splat(0x1p-126f);
  vi b = (vi)sel(tiny, x * 8388608.0f, x) - 0x3f3504f3;
  vi e = (b >> 23) - (tiny & 23);
  vf m = (vf)((b & 0x7fffff) + 0x3f3504f3);
  vf r = v_log_reduced(m - 1.0f, __builtin_convertvector(e, vf));
  vf special = sel(x == 0.0f, splat(-V_INF), sel(x > 0.0f, x, splat(V_NAN)));
  return sel((x > 0.0f) & (x < splat(V_INF)), r, special);
}

/* log(1+z) for 0 <= z <= 1. */
INLINE vf v_log1p01(vf z) {
  vi big = z > splat(0.41421356f);
  return v_log_reduced(sel(big, (z - 1.0f) * 0.5f, z), (vf)(big & (vi)splat(1.0f)));
}

INLINE OVL vf v_softplus(vf x) { return v_relu(x) + v_log1p01(v_exp(v_neg(v_abs(x)))); }

INLINE OVL vf v_mish(vf x) {
  vf w = v_exp(v_minr(splat(20.0f), x));
  vf n = w * (w + 2.0f);
  return x * (n / (n + 2.0f));
}

INLINE OVL vf v_erf(vf x) {
  vf a = v_abs(x), s = x * x;
  vf p = FMA(splat(-0x1.382646p-11f), s, splat(0x1.46c25ap-8f));
  p = FMA(p, s, splat(-0x1.b676d2p-6f));
  p = FMA(p, s, splat(0x1.ce1904p-4f));
  p = FMA(p, s, splat(-0x1.8126dcp-2f));
  p = FMA(p, s, splat(0x1.06eba6p-3f));
  p = FMA(p, x, x);
  /* erf = 1 - e^-q(a) on [0.92, 4]; beyond 4 the result rounds to 1. */
  vf t = v_minr(splat(4.0f), a);
  vf q = FMA(splat(0x1.63094ep-16f), t, splat(-0x1.c85be8p-12f));
  q = FMA(q, t, splat(0x1.1196d0p-8f));
  q = FMA(q, t, splat(-0x1.9bb50ap-6f));
  q = FMA(q, t, splat(0x1.bb926ap-4f));
  q = FMA(q, t, splat(0x1.444472p-1f));
  q = FMA(q, t, splat(0x1.212846p+0f));
  q = FMA(q, t, splat(-0x1.70d52cp-13f));
  vf r = v_copysign(1.0f - v_exp(v_neg(q)), x);
  return sel(a < splat(0.925f), p, r);
}

/* a*b - p for p = a*b rounded: the rounding error of a square. */
INLINE vf v_square_error(vf a, vf p) {
#if defined(__FMA__)
  return FMA(a, a, v_neg(p));
#else
  vf h = (vf)((vi)a & (int32_t)0xfffff000), l = a - h;
  return ((h * h - p) + 2.0f * h * l) + l * l;
#endif
}

/* x*Phi(x) = max(x, 0) - a*Phi(-a), a = |x|; Phi(-a) = e^(-a^2/2) * R(u), u = 1/(1 + a/4): no cancellation for negative x. */
INLINE OVL vf v_gelu(vf x) {
  vf a = v_minr(splat(15.0f), v_abs(x)), u = 1.0f / FMA(splat(0.25f), a, splat(1.0f));
  vf r = FMA(splat(0x1.0da40ap-5f), u, splat(-0x1.86743cp-3f));
  r = FMA(r, u, splat(0x1.875b0ep-2f));
  r = FMA(r, u, splat(-0x1.4432ap-2f));
  r = FMA(r, u, splat(0x1.299a7p-2f));
  r = FMA(r, u, splat(-0x1.aad75cp-7f));
  r = FMA(r, u, splat(0x1.e79da8p-4f));
  r = FMA(r, u, splat(0x1.86954ap-4f));
  r = FMA(r, u, splat(0x1.9a4622p-4f));
  r = FMA(r, u, splat(-0x1.32a6fp-16f));
  vf p = a * a, e = v_square_error(a, p);
  vf g = a * (v_exp(-0.5f * p) * FMA(r * -0.5f, e, r));
  return v_relu(x) - g;
}
INLINE OVL vf v_gelu_tanh(vf x) {
  vf u = 1.5957691216057308f * FMA(x * x * x, splat(0.044715f), x);
  return x * v_sigmoid(u);
}
#if VL == 16
/* Three times 32 coefficients of parabolas (parabolas.py), in units. */
INLINE void v_in_units(float *to, const float *from, float unit) {
  const vf inverse = splat(1.0f / unit);
  for (int i = 0; i < 96; i += VL) st(to + i, ld(from + i) * inverse);
}
/* The parabola of the multiple of `step`, a power of two, nearest to x: its low bits are those of a sum whose last place is `step`. */
INLINE vf v_parabola(vf x, const float *table, float step) {
  const vf z = v_maxr(splat(-16.0f * step), x);
  const __m512i at = (__m512i)(v_minr(splat(15.0f * step), z) + splat(0x1.8p23f * step));
  vf c[3];
#pragma clang loop unroll(full)
  for (int i = 0; i < 3; i++) c[i] = (vf)_mm512_permutex2var_ps((__m512)ld(table + 32 * i), at, (__m512)ld(table + 32 * i + VL));
  return FMA(z, FMA(z, c[2], c[1]), c[0]);
}
#endif
/* x*(alpha + alpha_lo) + beta without the rounding of the product, which would dominate where the sum cancels. */
INLINE vf v_line(vf x, float alpha, float alpha_lo, float beta) {
#if defined(__FMA__)
  if (alpha_lo == 0.0f) return FMA(x, splat(alpha), splat(beta));
  x = v_maxr(splat(-1e38f), v_minr(splat(1e38f), x));
  return FMA(x, splat(alpha_lo), FMA(x, splat(alpha), splat(beta)));
#else
  return __builtin_convertvector(__builtin_convertvector(x, vd) * ((double)alpha + alpha_lo) + (double)beta, vf);
#endif
}
INLINE OVL vf v_hardsigmoid(vf x, float alpha, float alpha_lo, float beta) {
  return v_atmost(v_relu(v_line(x, alpha, alpha_lo, beta)), 1.0f);
}
INLINE OVL vf v_hardswish(vf x) { return x * (v_atmost(v_relu(x + 3.0f), 6.0f) * 0x1.555556p-3f); }
INLINE OVL vf v_leaky(vf x, float alpha) { return sel(x < 0.0f, x * alpha, x); }
INLINE OVL vf v_prelu(vf x, vf slope) { return sel(x < 0.0f, x * slope, x); }
INLINE OVL vf v_elu(vf x, float alpha) { return sel(x < 0.0f, alpha * v_expm1_neg(x), x); }
INLINE OVL vf v_selu(vf x, float alpha, float gamma) { return gamma * sel(x < 0.0f, alpha * v_expm1_neg(x), x); }
INLINE OVL vf v_celu(vf x, float alpha) { return sel(x < 0.0f, alpha * v_expm1_neg(x / alpha), x); }
INLINE OVL vf v_thresholded(vf x, float alpha) { return sel(x > splat(alpha), x, (vf){}); }
/* A code of scale s, and back; x itself where s is 0. NaN stays. */
INLINE OVL vf v_fake(vf x, vf s, vf low) {
  const vf code = v_minr(low + 255.0f, v_maxr(low, v_round(x / s)));
  return sel(s > (vf){}, code * s, x);
}
INLINE OVL vf v_shrink(vf x, float lambd, float bias) {
  return sel(x < splat(-lambd), x + bias, sel(x > splat(lambd), x - bias, (vf){}));
}
INLINE OVL vf v_softsign(vf x) { return x / (1.0f + v_abs(x)); }

/* Finite |x| >= 2^19 less its nearest multiple of pi/2, and that multiple mod 4: with |x| = m 2^e, the product of m and the 96
 * bits of 2/pi from weight 2^(1-e) down is |x| 2/pi mod 4, in units of 2^-94; the bits cut off are worth less than 2^-70. */
static __attribute__((noinline)) double v_reduce_far(float x, int32_t *k) {
  static const uint32_t two_over_pi[8] = {0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB};
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint64_t m = (bits & 0x7fffff) | 0x800000;
  const int at = (int)(bits >> 23 & 0xff) - 150 - 1 + 31, i = at / 32, s = at % 32;
  uint32_t w[3];
  for (int j = 0; j < 3; j++) w[j] = (uint32_t)((((uint64_t)two_over_pi[i + j] << 32 | two_over_pi[i + j + 1]) << s) >> 32);
  const uint64_t turn = (m * w[0] << 32) + m * w[1] + (m * w[2] >> 32); /* quarters in units of 2^-62 */
  const uint64_t n = (turn + (1ull << 61)) >> 62;
  const double r = (double)(int64_t)(turn - (n << 62)) * 0x1.921fb54442d18p-62;
  *k = (int32_t)(bits >> 31 ? -n : n);
  return bits >> 31 ? -r : r;
}

/* Argument reduction in double: exact enough for |x| <= 1e6, beyond which lanes are reduced one by one. quarter adds multiples
 * of pi/2. */
INLINE vf v_sincos(vf x, int32_t quarter) {
  vd d = __builtin_convertvector(x, vd);
  vd magic = 6755399441055744.0 - (vd){};
  vd t = d * 0.63661977236758134 + magic;
  vd n = t - magic;
  vd rd = (d - n * 1.5707963267341256) - n * 6.0771005065061922e-11;
  vi k = __builtin_convertvector((vl)t, vi);
  vi far = (v_abs(x) > splat(1e6f)) & (v_abs(x) < splat(V_INF));
  if (__builtin_expect(__builtin_reduce_or(far), 0))
    for (int i = 0; i < VL; i++)
      if (far[i]) {
        int32_t multiple;
        rd[i] = v_reduce_far(x[i], &multiple);
        k[i] = multiple;
      }
  k += quarter;
  vf r = __builtin_convertvector(rd, vf), s = r * r;
  vf a = FMA(FMA(FMA(splat(0x1.6ccf5ep-19f), s, splat(-0x1.a00f74p-13f)), s, splat(0x1.111108p-7f)), s, splat(-0x1.555556p-3f));
  a = FMA(a * s, r, r);
  vf c = FMA(FMA(splat(0x1.99e86ap-16f), s, splat(-0x1.6c0c28p-10f)), s, splat(0x1.55554ap-5f));
  c = FMA(c, s * s, FMA(splat(-0.5f), s, splat(1.0f)));
  vf v = sel((k & 1) == 1, c, a);
  return (vf)((vi)v ^ ((k & 2) << 30));
}
INLINE OVL vf v_sin(vf x) { return sel(x == 0.0f, x, v_sincos(x, 0)); }
INLINE OVL vf v_cos(vf x) { return v_sincos(x, 1); }

/* x^y through log2 and exp2 in double, so that the error stays below one float ulp. */
INLINE OVL vf v_pow(vf x, vf y) {
  vf a = v_abs(x);
  vl xb = (vl)__builtin_convertvector(a, vd);
  vl eb = xb - 0x3fe6a09e667f3bcdLL;
  vl ei = eb >> 52;
  vd m = (vd)((eb & 0xfffffffffffffLL) + 0x3fe6a09e667f3bcdLL);
  vd magic = 6755399441055744.0 - (vd){};
  vd e = (vd)(ei + (vl)magic) - magic;
  vd s = (m - 1.0) / (m + 1.0), z = s * s;
  vd l = ((((((1.0 / 13 - (vd){}) * z + 1.0 / 11) * z + 1.0 / 9) * z + 1.0 / 7) * z + 1.0 / 5) * z + 1.0 / 3) * z + 1.0;
  vd t = __builtin_convertvector(y, vd) * (e + s * l * 2.8853900817779268);
  t = (vd)(((vl)t & (t <= 300.0)) | ((vl)(300.0 - (vd){}) & ~(t <= 300.0)));
  t = (vd)(((vl)t & (t >= -300.0)) | ((vl)(-300.0 - (vd){}) & ~(t >= -300.0)));
  vd k = t + magic;
  vd r = (t - (k - magic)) * 0.69314718055994531;
  vd p = 1.0 / 40320 - (vd){};
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = (p * r + 1.0) * r + 1.0;
  vf v = __builtin_convertvector((vd)((vl)p + (((vl)k - (vl)magic) << 52)), vf);
  vf ay = v_abs(y);
  vi whole = (v_trunc(y) == y) | (ay == splat(V_INF));
  vi odd = whole & (ay < splat(16777216.0f)) & (v_trunc(y * 0.5f) != y * 0.5f);
  vf inf = splat(V_INF), one = splat(1.0f);
  v = sel(a == 0.0f, sel(y < 0.0f, inf, (vf){}), v);
  v = sel(a == inf, sel(y < 0.0f, (vf){}, inf), v);
  v = sel(ay == inf, sel((a > 1.0f) == (y > 0.0f), inf, (vf){}), v);
  v = sel((ay == inf) & (a == 1.0f), one, v);
  v = (vf)((vi)v ^ (odd & (vi)x & (int32_t)0x80000000));
  v = sel((x < 0.0f) & ~whole & (a != inf), splat(V_NAN), v);
  v = sel((x != x) | (y != y), x + y, v);
  return sel((y == 0.0f) | (x == 1.0f), one, v);
}

/* Boolean lanes are 0 / -1 in registers and 0 / 1 bytes in memory. */
INLINE vi ld_bool(const void *p, int n) {
  const uint8_t *q = p;
  if (n == VL) return -__builtin_convertvector(*(const vb_any *)q, vi);
  vi v = {};
  for (int i = 0; i < VL; i++) if (i < n) v[i] = -(int32_t)q[i];
  return v;
}
INLINE void st_bool(void *p, vi v, int n) {
  uint8_t *q = p;
  if (n == VL) { *(vb_any *)q = __builtin_convertvector(-v, vb); return; }
  for (int i = 0; i < VL; i++) if (i < n) q[i] = (uint8_t)-v[i];
}
/* 8-bit lanes are int32 in registers. */
INLINE vi ld_uint8(const void *p, int n) {
  const uint8_t *q = p;
  if (n == VL) return __builtin_convertvector(*(const vb_any *)q, vi) & 255;
#if VL == 16
  if (__builtin_constant_p(n) && n == 8) return (vi)_mm512_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)q));
  if (__builtin_constant_p(n) && n == 4) return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si32(q));
  return (vi)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1u), q));
#else
  vi v = {};
  for (int i = 0; i < VL; i++) if (i < n) v[i] = q[i];
  return v;
#endif
}
INLINE vi ld_int8(const void *p, int n) { return ld_uint8(p, n) << 24 >> 24; }
#if VL == 16
/* The first n bytes. A known n takes plain stores of its parts: on Zen 5 a load that follows a masked store nearby waits for it. */
INLINE void st_first(void *p, __m512i v, int n) {
  uint8_t *q = p;
  if (!__builtin_constant_p(n)) { _mm512_mask_storeu_epi8(q, n > 63 ? ~0ull : (1ull << n) - 1, v); return; }
  if (n == 64) { _mm512_storeu_si512(q, v); return; }
  __m256i h = _mm512_castsi512_si256(v);
  if (n & 32) { _mm256_storeu_si256((__m256i *)q, h); q += 32; h = _mm512_extracti64x4_epi64(v, 1); }
  __m128i d = _mm256_castsi256_si128(h);
  if (n & 16) { _mm_storeu_si128((__m128i *)q, d); q += 16; d = _mm256_extracti128_si256(h, 1); }
  if (n & 8) { _mm_storel_epi64((__m128i *)q, d); q += 8; d = _mm_unpackhi_epi64(d, d); }
  if (n & 4) { _mm_storeu_si32(q, d); q += 4; d = _mm_srli_si128(d, 4); }
  for (int i = 0; i < (n & 3); i++) q[i] = (uint8_t)(_mm_cvtsi128_si32(d) >> 8 * i);
}
#endif
/* The masked store narrows in the same instruction: of lanes narrowed before, clang 20 stores all where the value is a selection. */
INLINE void st_byte(void *p, vi v, int n) {
  uint8_t *q = p;
#if VL == 16
  if (__builtin_constant_p(n)) st_first(q, _mm512_castsi128_si512(_mm512_cvtepi32_epi8((__m512i)v)), n);
  else if (n == VL) _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8((__m512i)v));
  else _mm512_mask_cvtepi32_storeu_epi8(q, (__mmask16)((1u << n) - 1u), (__m512i)v);
#else
  if (n == VL) { *(vb_any *)q = __builtin_convertvector(v, vb); return; }
  for (int i = 0; i < VL; i++) if (i < n) q[i] = (uint8_t)v[i];
#endif
}
/* bfloat16 lanes are their bits, in int32. */
INLINE vi ld_brain(const void *p, int n) {
  const uint16_t *q = p;
#if VL == 16
  return (vi)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1u), q));
#else
  vi v = {};
  for (int i = 0; i < VL; i++) if (i < n) v[i] = q[i];
  return v;
#endif
}
INLINE void st_brain(void *p, vi v, int n) {
  uint16_t *q = p;
#if VL == 16
  if (n == VL) _mm256_storeu_si256((__m256i *)q, _mm512_cvtepi32_epi16((__m512i)v));
  else _mm512_mask_cvtepi32_storeu_epi16(q, (__mmask16)((1u << n) - 1u), (__m512i)v);
#else
  for (int i = 0; i < VL; i++) if (i < n) q[i] = (uint16_t)v[i];
#endif
}
INLINE vf v_from_brain(vi b) { return (vf)(b << 16); }
/* Half to even; NaN stays a quiet NaN. */
INLINE vi v_to_brain(vf x) {
  const vi b = (vi)x, high = (vi)((vu)b >> 16);
  return (vi)sel(x != x, (vf)(high | 0x40), (vf)(vi)((vu)(b + 0x7fff + (high & 1)) >> 16));
}
/* Half to even, within [lo, hi], plus zero; NaN gives lo. */
INLINE vi v_code(vf x, float lo, float hi, int32_t zero) {
#if VL == 16
  const __m512 c = _mm512_min_ps(_mm512_max_ps((__m512)x, (__m512)splat(lo)), (__m512)splat(hi));
  return (vi)_mm512_cvtps_epi32(c) + zero;
#elif VL == 8
  const __m256 c = _mm256_min_ps(_mm256_max_ps((__m256)x, (__m256)splat(lo)), (__m256)splat(hi));
  return (vi)_mm256_cvtps_epi32(c) + zero;
#else
  vf c = sel(x > lo, x, splat(lo));
  return __builtin_convertvector(v_round(sel(c < hi, c, splat(hi))), vi) + zero;
#endif
}
/* A code on its way: what st_code() and st_codes() make v_code()'s result of, as one saturating conversion of many lanes does. */
INLINE vi v_wide(vf x, float lo, float hi, int32_t zero) {
#if VL == 16
  (void)lo, (void)hi, (void)zero; /* below int32, and of NaN, the conversion gives its least value */
  return (vi)_mm512_cvtps_epi32(_mm512_min_ps((__m512)splat(0x1p30f), (__m512)x));
#else
  return v_code(x, lo, hi, zero);
#endif
}
/* As v_wide(), of what is known to fit int32. */
INLINE vi v_wide_within(vf x, float lo, float hi, int32_t zero) {
#if VL == 16
  (void)lo, (void)hi, (void)zero;
  return (vi)_mm512_cvtps_epi32((__m512)x);
#else
  return v_code(x, lo, hi, zero);
#endif
}
INLINE void st_code(void *p, vi v, int n, int32_t zero, int is_signed) {
#if VL == 16
  uint8_t *q = p;
  const __m512i x = zero ? (__m512i)(v_max(v, splati(-65536)) + zero) : (__m512i)v, u = (__m512i)v_relu((vi)x);
  const __mmask16 some = (__mmask16)((1u << n) - 1u);
  if (__builtin_constant_p(n)) st_first(q, _mm512_castsi128_si512(is_signed ? _mm512_cvtsepi32_epi8(x) : _mm512_cvtusepi32_epi8(u)), n);
  else if (is_signed) _mm512_mask_cvtsepi32_storeu_epi8(q, some, x);
  else _mm512_mask_cvtusepi32_storeu_epi8(q, some, u);
#else
  (void)zero, (void)is_signed;
  st_byte(p, v, n);
#endif
}
#if VL == 16
/* The codes of four registers in a row. */
INLINE __m512i v_codes(vi a, vi b, vi c, vi d, int32_t zero, int is_signed) {
  __m512i ab = _mm512_packs_epi32((__m512i)a, (__m512i)b), cd = _mm512_packs_epi32((__m512i)c, (__m512i)d);
  if (zero) ab = _mm512_adds_epi16(ab, _mm512_set1_epi16((short)zero)), cd = _mm512_adds_epi16(cd, _mm512_set1_epi16((short)zero));
  const __m512i turned = is_signed ? _mm512_packs_epi16(ab, cd) : _mm512_packus_epi16(ab, cd); /* quarters of a, b, c, d in turn */
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), turned);
}
#endif
INLINE int32_t v_code1(float x, float lo, float hi, int32_t zero) { return v_code(splat(x), lo, hi, zero)[0]; }
INLINE vi v_truth(vf x) { return x != 0.0f; }
INLINE vf v_from_truth(vi m) { return (vf)(m & (vi)splat(1.0f)); }
/* Out of range and NaN give INT32_MIN, as x86 and numpy on x86 do. */
INLINE vi v_to_int(vf x) {
#if VL == 16
  return (vi)_mm512_cvttps_epi32((__m512)x);
#elif VL == 8
  return (vi)_mm256_cvttps_epi32((__m256)x);
#else
  vi in = (x < splat(2147483648.0f)) & (x >= splat(-2147483648.0f));
  return v_where(in, __builtin_convertvector(sel(in, x, (vf){}), vi), splati(INT32_MIN));
#endif
}
INLINE vf v_from_int(vi x) { return __builtin_convertvector(x, vf); }

/* Scalars of every type, for typed element loops. */
#define V_SCALAR(T)                                                          \
  INLINE OVL T v_neg(T x) { return (T)-x; }                                  \
  INLINE OVL T v_where(uint8_t m, T a, T b) { return m ? a : b; }
#define V_FLOAT(T)                                                           \
  INLINE OVL T v_max(T a, T b) { T r = a > b ? a : b; return a == a ? r : a; } \
  INLINE OVL T v_min(T a, T b) { T r = a < b ? a : b; return a == a ? r : a; } \
  INLINE OVL T v_abs(T x) { return __builtin_elementwise_abs(x); }           \
  INLINE OVL T v_sqrt(T x) { return __builtin_elementwise_sqrt(x); }         \
  INLINE OVL T v_relu(T x) { return (T)0 > x ? (T)0 : x; }                   \
  INLINE OVL T v_sign(T x) { return x > 0 ? (T)1 : x < 0 ? (T)-1 : x == x ? (T)0 : x; } \
  INLINE OVL T v_atleast(T x, float lo) { return (T)lo > x ? (T)lo : x; }    \
  INLINE OVL T v_atmost(T x, float hi) { return (T)hi < x ? (T)hi : x; }
/* Integer division truncates; by zero it gives 0, and the minimum divided by -1 wraps. Mod's sign follows the divisor. */
#define V_INT(T)                                                             \
  INLINE OVL T v_max(T a, T b) { return a > b ? a : b; }                     \
  INLINE OVL T v_min(T a, T b) { return a < b ? a : b; }                     \
  INLINE OVL T v_abs(T x) { return x < 0 ? (T)-x : x; }                      \
  INLINE OVL T v_relu(T x) { return x > 0 ? x : (T)0; }                      \
  INLINE OVL T v_sign(T x) { return (T)((x > 0) - (x < 0)); }                \
  INLINE OVL T v_atleast(T x, int64_t lo) { return (int64_t)x < lo ? (T)lo : x; } \
  INLINE OVL T v_atmost(T x, int64_t hi) { return (int64_t)x > hi ? (T)hi : x; }  \
  INLINE OVL T v_idiv(T a, T b) { return b == 0 ? (T)0 : (T)-1 < 0 && b == (T)-1 ? (T)(0 - (uint64_t)a) : (T)(a / b); } \
  INLINE OVL T v_imod(T a, T b) {                                            \
    if (b == 0 || ((T)-1 < 0 && b == (T)-1)) return 0;                       \
    T r = (T)(a % b);                                                        \
    return r != 0 && (r < 0) != (b < 0) ? (T)(r + b) : r;                    \
  }
V_SCALAR(float) V_SCALAR(double) V_SCALAR(int8_t) V_SCALAR(uint8_t) V_SCALAR(int16_t) V_SCALAR(uint16_t)
V_SCALAR(int32_t) V_SCALAR(uint32_t) V_SCALAR(int64_t) V_SCALAR(uint64_t)
V_FLOAT(float) V_FLOAT(double)
V_INT(int8_t) V_INT(uint8_t) V_INT(int16_t) V_INT(uint16_t) V_INT(int32_t) V_INT(uint32_t) V_INT(int64_t) V_INT(uint64_t)

#define V_LIFT1(f) INLINE OVL float f(float x) { return f(splat(x))[0]; }
#define V_LIFT2(f) INLINE OVL float f(float x, float y) { return f(splat(x), splat(y))[0]; }
V_LIFT1(v_exp) V_LIFT1(v_log) V_LIFT1(v_sigmoid) V_LIFT1(v_silu) V_LIFT1(v_tanh) V_LIFT1(v_erf) V_LIFT1(v_gelu) V_LIFT1(v_gelu_tanh)
V_LIFT1(v_softplus) V_LIFT1(v_mish) V_LIFT1(v_softsign) V_LIFT1(v_hardswish) V_LIFT1(v_sin) V_LIFT1(v_cos) V_LIFT1(v_floor)
V_LIFT1(v_ceil) V_LIFT1(v_round) V_LIFT1(v_trunc) V_LIFT2(v_pow) V_LIFT2(v_prelu)
INLINE OVL float v_fake(float x, float s, float l) { return v_fake(splat(x), splat(s), splat(l))[0]; }
INLINE OVL float v_hardsigmoid(float x, float a, float l, float b) { return v_hardsigmoid(splat(x), a, l, b)[0]; }
INLINE OVL float v_leaky(float x, float a) { return v_leaky(splat(x), a)[0]; }
INLINE OVL float v_elu(float x, float a) { return v_elu(splat(x), a)[0]; }
INLINE OVL float v_selu(float x, float a, float g) { return v_selu(splat(x), a, g)[0]; }
INLINE OVL float v_celu(float x, float a) { return v_celu(splat(x), a)[0]; }
INLINE OVL float v_shrink(float x, float l, float b) { return v_shrink(splat(x), l, b)[0]; }
INLINE OVL float v_thresholded(float x, float a) { return v_thresholded(splat(x), a)[0]; }
#endif
