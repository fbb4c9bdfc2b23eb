/* Counts of |x| in BINS bins 2^e wide, e chosen so that the largest finite |x| falls into the upper half of them.
 *
 * Three launches: extremes of each of CHUNKS runs of values; each run's table of counts, all at the same width; their sum. COUNT may read
 * v[]. Output: BINS counts, then e, the number of zeros, the bits of the least and of the greatest finite value, and how many values
 * are not finite. The runs do not depend on the number of shares, and integer sums not on their order. */

typedef struct {
  float low, high;
  uint32_t zeros, odd; /* odd: not finite */
  uint32_t unused[12];
} stats_t;

#define STATS ((stats_t *)p[2])
#define TABLE(c) ((uint32_t *)p[2] + CHUNKS * 16 + (c) * BINS)

INLINE uint32_t bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

EXPORT void EXTREMES(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const float *x = p[0];
  int64_t c0, c1;
  share(CHUNKS, part, parts, &c0, &c1);
  for (int64_t c = c0; c < c1; c++) {
    int64_t i, end;
    share(COUNT, (int32_t)c, CHUNKS, &i, &end);
    vf low = splat(__builtin_inff()), high = splat(-__builtin_inff());
    vi zeros = {}, odd = {};
    for (; i < end; i += VL) {
      const int n = end - i < VL ? (int)(end - i) : VL;
      const vf a = ldx(x + i, n);
      const vi in = iota() < n, finite = ((vi)a & 0x7f800000) != 0x7f800000, good = finite & in;
      low = vmin(low, sel(good, a, low));
      high = vmax(high, sel(good, a, high));
      zeros -= (a == 0.0f) & in;
      odd -= ~finite & in;
    }
    stats_t s = {low[0], high[0], 0, 0, {0}};
    for (int l = 0; l < VL; l++) {
      s.low = low[l] < s.low ? low[l] : s.low;
      s.high = high[l] > s.high ? high[l] : s.high;
      s.zeros += (uint32_t)zeros[l], s.odd += (uint32_t)odd[l];
    }
    STATS[c] = s;
  }
}

/* All runs' extremes in one. */
INLINE stats_t together(void *const *p) {
  stats_t all = STATS[0];
  for (int c = 1; c < CHUNKS; c++) {
    all.low = STATS[c].low < all.low ? STATS[c].low : all.low;
    all.high = STATS[c].high > all.high ? STATS[c].high : all.high;
    all.zeros += STATS[c].zeros, all.odd += STATS[c].odd;
  }
  all.low += 0.0f, all.high += 0.0f; /* -0 counts as 0 */
  return all;
}

/* e */
INLINE int32_t exponent(stats_t s) {
  const float a = s.low <= s.high ? (-s.low > s.high ? -s.low : s.high) : 0.0f;
  return (int32_t)(bits(a) >> 23) - BIAS;
}

INLINE float power(int32_t e) {
  const uint32_t u = (uint32_t)(e + 127) << 23;
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

#if VL == 16
/* Indices that wait to be counted: how many of a vector count is as good as random, and a branch on it as good as lost. */
enum { WAITING = 512 };

INLINE int32_t counted_in(uint32_t *table, const int32_t *index, int32_t k) {
#pragma clang loop unroll_count(8)
  for (int32_t l = 0; l < k; l++) table[index[l]]++;
  return 0;
}
#endif

EXPORT void COUNTS(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const float *x = p[0];
  /* 2^-e may be beyond float32: two factors, of which the first never makes a value that counts denormal. */
  const int32_t e = -exponent(together(p));
  const float f = power(e / 2), g = power(e - e / 2);
  int64_t c0, c1;
  share(CHUNKS, part, parts, &c0, &c1);
  for (int64_t c = c0; c < c1; c++) {
    uint32_t *table = TABLE(c);
    __builtin_memset(table, 0, 4 * BINS);
    int64_t i, end;
    share(COUNT, (int32_t)c, CHUNKS, &i, &end);
#if VL == 16
    int32_t waiting[WAITING + VL], k = 0;
#endif
    for (; i < end; i += VL) {
      const int n = end - i < VL ? (int)(end - i) : VL;
      const vf a = ldx(x + i, n);
      /* Zeros come in at the end, from their count: after a ReLU they are half of all, and all in one bin. */
      const vi counted = (((vi)a & 0x7f800000) != 0x7f800000) & (a != 0.0f) & (iota() < n);
      const vf scaled = (vf)((vi)a & 0x7fffffff) * f * g;
#if VL == 16
      const __mmask16 m = _mm512_movepi32_mask((__m512i)counted);
      _mm512_storeu_si512(waiting + k, _mm512_maskz_compress_epi32(m, _mm512_cvttps_epi32((__m512)scaled)));
      k += __builtin_popcount(m);
      if (k >= WAITING) k = counted_in(table, waiting, k);
#else
      for (int l = 0; l < VL; l++)
        if (counted[l]) table[(int32_t)scaled[l]]++;
#endif
    }
#if VL == 16
    counted_in(table, waiting, k);
#endif
  }
}

EXPORT void SUM(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  int64_t *out = p[1], b0, b1;
  const stats_t all = together(p);
  share(BINS, part, parts, &b0, &b1);
  for (int64_t b = b0; b < b1; b++) {
    int64_t n = b == 0 ? all.zeros : 0;
    for (int c = 0; c < CHUNKS; c++) n += TABLE(c)[b];
    out[b] = n;
  }
  if (part > 0) return;
  out[BINS] = exponent(all);
  out[BINS + 1] = all.zeros;
  out[BINS + 2] = (int32_t)bits(all.low);
  out[BINS + 3] = (int32_t)bits(all.high);
  out[BINS + 4] = all.odd;
}
