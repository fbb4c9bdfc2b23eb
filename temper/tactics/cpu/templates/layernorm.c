/* Layer normalisation (RMS 0: (x - mean) / sqrt(variance + eps)) or RMS normalisation (RMS 1: x / sqrt(mean of squares + eps)) of rows
 * of C elements, times scale, plus bias where BIAS says so. XLD, OLD: elements between rows of input and output.
 *
 * The mean is taken first and the variance of what is left: the row comes from L1 the second and third time. Neighbouring rows go
 * together, as sums across lanes, the root and the division of one row are a chain of over a hundred cycles. */
#define CV ((C + VL - 1) / VL)
#define LAST (C - (CV - 1) * VL)
#define UNROLL _Pragma("clang loop unroll(full)")
#define TOGETHER 2

typedef struct {
  const float *scale, *bias;
  void *out;
  const epi_t *e;
} norm_t;

INLINE vf part_of(const float *x, int64_t i) { return i < CV - 1 || LAST == VL ? ld(x + i * VL) : ldn(x + i * VL, LAST); }

INLINE vf square_from(const float *x, int64_t i, vf mean) {
  vf d = part_of(x, i) - mean;
  if (LAST < VL && i == CV - 1) d = sel(iota() < splati(LAST), d, (vf){});
  return d * d;
}

/* Sums of four parts at a time, in one order whatever the number of rows. */
INLINE float sum_of(const vf s[4]) { return hsum((s[0] + s[2]) + (s[1] + s[3])); }

INLINE vf result(const norm_t *q, const float *x, int64_t i, vf mean, vf factor, int n) {
  vf y = (ldx(x + i * VL, n) - mean) * factor * ldx(q->scale + i * VL, n);
#if BIAS
  y += ldx(q->bias + i * VL, n);
#endif
  return y;
}

/* v: sizes known at run time only, which XLD, OLD and PIXELS may be. */
INLINE void rows(const norm_t *q, const float *x, const int64_t *v, int64_t pix, const int count) {
  (void)v;
  vf mean[TOGETHER], factor[TOGETHER], s[TOGETHER][4];
  UNROLL for (int r = 0; r < count; r++) mean[r] = (vf){};
  int64_t i;
  if (!RMS) {
    UNROLL for (int r = 0; r < count; r++) UNROLL for (int k = 0; k < 4; k++) s[r][k] = (vf){};
    for (i = 0; i + 4 <= CV; i += 4) UNROLL for (int r = 0; r < count; r++) UNROLL for (int k = 0; k < 4; k++) s[r][k] += part_of(x + r * (XLD), i + k);
    for (; i < CV; i++) UNROLL for (int r = 0; r < count; r++) s[r][0] += part_of(x + r * (XLD), i);
    UNROLL for (int r = 0; r < count; r++) mean[r] = splat(sum_of(s[r]) / (float)C);
  }
  UNROLL for (int r = 0; r < count; r++) UNROLL for (int k = 0; k < 4; k++) s[r][k] = (vf){};
  for (i = 0; i + 4 <= CV; i += 4)
    UNROLL for (int r = 0; r < count; r++) UNROLL for (int k = 0; k < 4; k++) s[r][k] += square_from(x + r * (XLD), i + k, mean[r]);
  for (; i < CV; i++) UNROLL for (int r = 0; r < count; r++) s[r][0] += square_from(x + r * (XLD), i, mean[r]);
  UNROLL for (int r = 0; r < count; r++) factor[r] = 1.0f / v_sqrt(splat(sum_of(s[r]) / (float)C + EPSILON));
  i = 0;
#if EPI_CODES && VL == 16
  for (; i + 4 <= (LAST == VL ? CV : CV - 1); i += 4)
    UNROLL for (int r = 0; r < count; r++) {
      vi w[4];
      UNROLL for (int k = 0; k < 4; k++) __builtin_prefetch(x + (count + r) * (XLD) + (i + k) * VL);
      UNROLL for (int k = 0; k < 4; k++)
        w[k] = epilogue(result(q, x + r * (XLD), i + k, mean[r], factor[r], VL), q->e, (pix + r) / (PIXELS), pix + r, (i + k) * VL, VL);
      st_first((uint8_t *)q->out + (pix + r) * OLD + i * VL, v_codes(w[0], w[1], w[2], w[3], EPI_ZERO, EPI_SIGNED), 4 * VL);
    }
#endif
  for (; i < CV; i++)
    UNROLL for (int r = 0; r < count; r++) {
      const int n = i < CV - 1 ? VL : LAST;
      const vf y = result(q, x + r * (XLD), i, mean[r], factor[r], n);
      epi_store(q->out, (pix + r) * OLD + i * VL, epilogue(y, q->e, (pix + r) / (PIXELS), pix + r, i * VL, n), n);
    }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  epi_t e;
  epi_init(&e, p);
  const norm_t q = {p[1], BIAS ? p[P_BIAS] : 0, p[P_OUT], &e};
  const float *x = p[0];
  int64_t lo, hi;
  share((int64_t)(ROWS), part, parts, &lo, &hi);
  for (; lo + TOGETHER <= hi; lo += TOGETHER) rows(&q, x + lo * (XLD), v, lo, TOGETHER);
  for (; lo < hi; lo++) rows(&q, x + lo * (XLD), v, lo, 1);
}
