/* Vector types, partial loads and stores, and FMA for one code level; every CPU template includes this text first.
 *
 * VL is the number of float lanes of a register: 16 (AVX-512), 8 (AVX2), 4 (baseline x86-64).
 * `n` in ldn/stn is the number of valid lanes, 0 <= n <= VL: nothing beyond p[n-1] is touched. */
#ifndef TEMPER_VEC_H
#define TEMPER_VEC_H
#include <stddef.h>
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
#define VF vf
#define VI vi
/* The same lanes at any address and over any declared type. */
typedef float vf_any __attribute__((vector_size(4 * VL), aligned(1), may_alias));
typedef int32_t vi_any __attribute__((vector_size(4 * VL), aligned(1), may_alias));

/* Fused where the ISA has it; two roundings otherwise. No expression outside FMA() is ever contracted. */
#if defined(__FMA__)
#define FMA(a, b, c) __builtin_elementwise_fma((a), (b), (c))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

INLINE vf splat(float x) { return x - (vf){}; }
INLINE vi splati(int32_t x) { return x - (vi){}; }
INLINE vf ld(const void *p) { return *(const vf_any *)p; }
INLINE vi ldi(const void *p) { return *(const vi_any *)p; }
INLINE void st(void *p, vf v) { *(vf_any *)p = v; }
INLINE void sti(void *p, vi v) { *(vi_any *)p = v; }

INLINE vi iota(void) {
#if VL == 16
  return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VL == 8
  return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
  return (vi){0, 1, 2, 3};
#endif
}

/* Lanes from n on read as 0. */
INLINE vf ldn(const void *p, int n) {
#if VL == 16
  return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif VL == 8
  return (vf)_mm256_maskload_ps((const float *)p, (__m256i)(iota() < splati(n)));
#else
  const float __attribute__((aligned(1), may_alias)) *q = p;
  vf v = {};
  if (n > 3) return ld(p);
  if (n > 0) v[0] = q[0];
  if (n > 1) v[1] = q[1];
  if (n > 2) v[2] = q[2];
  return v;
#endif
}

INLINE void stn(void *p, vf v, int n) {
#if VL == 16
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif VL == 8
  _mm256_maskstore_ps((float *)p, (__m256i)(iota() < splati(n)), (__m256)v);
#else
  float __attribute__((aligned(1), may_alias)) *q = p;
  if (n > 3) { st(p, v); return; }
  if (n > 0) q[0] = v[0];
  if (n > 1) q[1] = v[1];
  if (n > 2) q[2] = v[2];
#endif
}

INLINE vi ldni(const void *p, int n) { return (vi)ldn(p, n); }
INLINE void stni(void *p, vi v, int n) { stn(p, (vf)v, n); }

/* ldn/stn where n is VL at compile time or nearly always: one branch instead of a mask. */
INLINE vf ldx(const void *p, int n) { return n == VL ? ld(p) : ldn(p, n); }
INLINE void stx(void *p, vf v, int n) { if (n == VL) st(p, v); else stn(p, v, n); }

/* a where the lane of m is all ones, b where it is 0. */
INLINE vf sel(vi m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }

INLINE vf vmax(vf a, vf b) { return __builtin_elementwise_max(a, b); }
INLINE vf vmin(vf a, vf b) { return __builtin_elementwise_min(a, b); }

/* Sum of the lanes in a fixed (pairwise) order. */
INLINE float hsum(vf v) {
#if VL == 16
  typedef float v8 __attribute__((vector_size(32)));
  v8 h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif VL == 8
  vf h = v;
#endif
  typedef float v4 __attribute__((vector_size(16)));
#if VL >= 8
  v4 q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#else
  v4 q = v;
#endif
  return (q[0] + q[2]) + (q[1] + q[3]);
}

/* acc + the products of each lane's four pairs of bytes (a unsigned, b signed), or two pairs of int16; all exact. */
#if defined(__AVX512VNNI__)
INLINE vi dot4(vi acc, vi a, vi b) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)a, (__m512i)b); }
#endif
/* acc + the products of each lane's two bfloat16; subnormal numbers count as zero. */
#if defined(__AVX512BF16__)
INLINE vf dot2h(vf acc, vi a, vi b) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
#endif
#if defined(__AVX512VNNI__)
INLINE vi dot2(vi acc, vi a, vi b) { return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b); }
#elif VL == 16
INLINE vi dot2(vi acc, vi a, vi b) { return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif VL == 8
INLINE vi dot2(vi acc, vi a, vi b) { return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#else
typedef int16_t v8s __attribute__((vector_size(16)));
INLINE vi dot2(vi acc, vi a, vi b) { return acc + (vi)__builtin_ia32_pmaddwd128((v8s)a, (v8s)b); }
#endif

/* Share `part` of `parts` of n equal items: [*lo, *hi). */
INLINE void share(int64_t n, int32_t part, int32_t parts, int64_t *lo, int64_t *hi) {
  *lo = n * part / parts;
  *hi = n * (part + 1) / parts;
}
#endif
