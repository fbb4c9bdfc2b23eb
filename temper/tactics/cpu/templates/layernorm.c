/* Layer normalisation (RMS 0: (x - mean) / sqrt(variance + eps)) or RMS normalisation (RMS 1: x / sqrt(mean of squares + eps)) of rows
 * of C elements, times scale, plus bias where BIAS says so. XLD, OLD: elements between rows of input and output.
 *
 * The mean is taken first and the variance of what is left: the row comes from L1 the second and third time. */
#define CV ((C + VL - 1) / VL)
#define LAST (C - (CV - 1) * VL)
#define UNROLL _Pragma("clang loop unroll(full)")

INLINE vf part_of(const float *x, int64_t i) { return i < CV - 1 || LAST == VL ? ld(x + i * VL) : ldn(x + i * VL, LAST); }

INLINE vf square_from(const float *x, int64_t i, vf mean) {
  vf d = part_of(x, i) - mean;
  if (LAST < VL && i == CV - 1) d = sel(iota() < splati(LAST), d, (vf){});
  return d * d;
}

INLINE void row(const float *x, const float *scale, const float *bias, void *out, const epi_t *e, int64_t img, int64_t pix) {
  (void)bias;
  vf mean = {};
  if (!RMS) {
    vf a[4];
    UNROLL for (int k = 0; k < 4; k++) a[k] = (vf){};
    int64_t i = 0;
    for (; i + 4 <= CV; i += 4) UNROLL for (int k = 0; k < 4; k++) a[k] += part_of(x, i + k);
    for (; i < CV; i++) a[0] += part_of(x, i);
    mean = splat(hsum((a[0] + a[2]) + (a[1] + a[3])) / (float)C);
  }
  vf s[4];
  UNROLL for (int k = 0; k < 4; k++) s[k] = (vf){};
  int64_t i = 0;
  for (; i + 4 <= CV; i += 4) UNROLL for (int k = 0; k < 4; k++) s[k] += square_from(x, i + k, mean);
  for (; i < CV; i++) s[0] += square_from(x, i, mean);
  const float square = hsum((s[0] + s[2]) + (s[1] + s[3])) / (float)C;
  const vf factor = 1.0f / v_sqrt(splat(square + EPSILON));
  for (i = 0; i < CV; i++) {
    const int n = i < CV - 1 ? VL : LAST;
    vf y = (ldx(x + i * VL, n) - mean) * factor * ldx(scale + i * VL, n);
#if BIAS
    y += ldx(bias + i * VL, n);
#endif
    epi_store(out, pix * OLD + i * VL, epilogue(y, e, img, pix, i * VL, n), n);
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  epi_t e;
  epi_init(&e, p);
  int64_t lo, hi;
  share((int64_t)(ROWS), part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++)
    row((const float *)p[0] + u * XLD, p[1], BIAS ? (const float *)p[P_BIAS] : 0, p[P_OUT], &e, u / (PIXELS), u);
}
